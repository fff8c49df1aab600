"""All checks of a job in their order. One wrong thing does not hide the next, so that few starts tell all."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from semires_trainer.config import Resolved, training_hash
from semires_trainer.data.load import load_dataset
from semires_trainer.data.splits import image_files, refs_in_use, split_dataset
from semires_trainer.errors import SemiresError
from semires_trainer.fetch import fetch_inputs, localize
from semires_trainer.fetch.images import FIELD as IMAGES
from semires_trainer.fetch.job import (
    ANNOTATIONS,
    BERT,
    IMAGE_IDS,
    INIT_FROM,
    SAM_WEIGHTS,
    Want,
    find_input,
    vocabulary_of_bert,
    wanted_inputs,
)
from semires_trainer.fetch.sources import ObjectSource, Source, find_source
from semires_trainer.inputs import input_uris, missing_inputs
from semires_trainer.orders import Attempt
from semires_trainer.preflight.done import find_done, read_previous_outcome
from semires_trainer.preflight.findings import Findings
from semires_trainer.preflight.output import check_output_access, check_store_access
from semires_trainer.preflight.pictures import check_pictures
from semires_trainer.preflight.room import room_needed
from semires_trainer.preflight.shape import shape_of
from semires_trainer.preflight.weights import Expected, check_weights, uri_of
from semires_trainer.proposals.sam_key import PUBLIC_BYTES, PUBLIC_SHA256, expected_sha256
from semires_trainer.storage import Storage
from semires_trainer.storage.failures import (
    CredentialsMissing,
    EndpointNotFound,
    EndpointRedirects,
    EndpointUnreachable,
    ExpiredToken,
    InvalidCredentials,
    TlsFailed,
    WrongRegion,
)
from semires_trainer.storage.parallel import in_order

logger = logging.getLogger(__name__)

S3, HUB = "s3://", "hf://"
SWIN, VOCAB = "spec.model.swin", "spec.model.vocab"
WEIGHTS = (SAM_WEIGHTS, SWIN, BERT, INIT_FROM)
SMALL_INPUTS = (ANNOTATIONS, IMAGE_IDS, VOCAB)
"""What is fetched, into the cache of the run."""
THREADS = 8
USERS_MISTAKES = (2, 3)
"""Exit codes after which the other checks still tell something."""
FIELDS: Mapping[type[SemiresError], str] = {
    CredentialsMissing: "spec.storage.credentialsSecret",
    InvalidCredentials: "spec.storage.credentialsSecret",
    ExpiredToken: "spec.storage.credentialsSecret",
    WrongRegion: "spec.storage.region",
    TlsFailed: "spec.storage.endpoint",
    EndpointRedirects: "spec.storage.endpoint",
    EndpointNotFound: "spec.storage.endpoint",
    EndpointUnreachable: "spec.storage.endpoint",
}
"""Failures that are the same for every URI: the field that is to be changed, whichever URI met them first."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """What the checks work with."""

    resolved: Resolved
    storage: Storage
    cache: Path
    """Where inputs are kept, as the run does."""
    attempt: Attempt

    @property
    def identity(self) -> str:
        """Hash of what is trained."""
        return training_hash(self.resolved)

    @property
    def output(self) -> str:
        """Where results go."""
        return self.resolved.output.rstrip("/")


class Problems:
    """Collects mistakes of the user's; whatever stops everything else is raised at once."""

    def __init__(self) -> None:
        self.found: list[SemiresError] = []

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Go on after a mistake inside."""
        try:
            yield
        except SemiresError as error:
            self.add(error)

    def add(self, error: SemiresError) -> None:
        """Collect a mistake; any other failure is raised, or the first mistake if there is one."""
        if error.exit_code not in USERS_MISTAKES:
            self.raise_any()
            field = FIELDS.get(type(error), error.field)
            raise type(error)(error.message, field=field, remedy=error.remedy) from error
        self.found.append(error)

    def raise_any(self) -> None:
        """Raise the first mistake, one of the manifest before one of the data, if there are any."""
        if not self.found:
            return
        first = min(self.found, key=lambda error: error.exit_code)
        others = [error for error in self.found if error is not first]
        for error in others:
            logger.error("%s", error)
        if not others:
            raise first
        fields = ", ".join(dict.fromkeys(error.field or error.reason for error in others))
        message = f"{first.message.rstrip('.')} (and {len(others)} more, see the log: {fields})"
        raise type(first)(message, field=first.field, remedy=first.remedy) from first


@dataclass(frozen=True, kw_only=True)
class Data:
    """What the annotations tell."""

    train_images: int
    file_names: tuple[str, ...]
    """Of all images in use, evaluated ones too."""
    located: Resolved
    """With local annotations and vocabulary."""


def check_job(given: Given, found: Findings) -> None:
    """Fill `found`; raises the failure that would end the run, of several mistakes the first."""
    problems, storage = Problems(), given.storage
    found.doing = "spec.output"
    with problems.collected():
        check_output_access(storage, given.output, given.identity, given.attempt)
    with problems.collected():
        found.previous_outcome = read_previous_outcome(storage, given.output, given.attempt)
    found.doing = "the inputs"
    for error in missing_inputs(given.resolved):
        problems.add(error)
    sources = find_inputs(given, problems)
    found.doing = "the weights"
    check_all_weights(given, found, sources, problems)
    found.doing = "the data set"
    data, picture_bytes = None, None
    with problems.collected():
        data = check_data(given, found)
    found.doing = IMAGES
    with problems.collected():
        # A listing of 83,000 names comes after the annotations: there is not room for both at once.
        want = wanted_inputs(given.resolved).get(IMAGES)
        images = find_input(storage, want) if want is not None else None
        if data is not None:
            picture_bytes = check_pictures(storage, given.resolved.dataset.images, images, data.file_names)
    problems.raise_any()
    assert data is not None
    assert picture_bytes is not None
    found.doing = "what is done already"
    tell_done(given, found, data)
    found.doing = "the room that is needed"
    found.ephemeral_storage_bytes = room_needed(
        given.resolved,
        shape_of(storage, data.located.model),
        input_bytes=picture_bytes + size_of(sources.values()),
        train_images=data.train_images,
    )


def find_inputs(given: Given, problems: Problems) -> dict[str, Source]:
    """What lies behind each URI of a storage service but that of the images, and behind local paths of weights."""
    wants = {field: want for field, want in wanted_inputs(given.resolved).items() if field != IMAGES}
    for field, uri in input_uris(given.resolved):
        path = Path(uri.removeprefix("file://")).expanduser()
        if field in WEIGHTS and not uri.startswith((S3, HUB)) and path.exists():
            wants[field] = Want(field=field, uri=str(path), find=find_source)

    def find(want: Want, _stop: threading.Event) -> Source | SemiresError:
        try:
            return find_input(given.storage, want)
        except SemiresError as error:
            return error

    answers = dict(zip(wants, in_order(find, list(wants.values()), threads=THREADS), strict=True))
    vocabulary = vocabulary_of_bert(given.resolved, _if_found(answers.get(INIT_FROM)))
    if vocabulary is not None and not isinstance(answers.get(INIT_FROM), SemiresError):
        answers[BERT] = find(vocabulary, threading.Event())
    for answer in answers.values():
        if isinstance(answer, SemiresError):
            problems.add(answer)
    return {field: answer for field, answer in answers.items() if not isinstance(answer, SemiresError)}


def _if_found(answer: Source | SemiresError | None) -> Source | None:
    return None if isinstance(answer, SemiresError) else answer


def check_all_weights(given: Given, found: Findings, sources: Mapping[str, Source], problems: Problems) -> None:
    """Look into the files of weights; what could not be verified here, or comes from the hub, is a warning."""
    unverified: list[str] = []
    for field in [field for field in WEIGHTS if field in sources]:
        with problems.collected():
            unverified += check_weights(
                given.storage, field, sources[field], expected=expected_of(given.resolved, field)
            )
    if unverified:
        found.warn(f"Only size and header were checked of {', '.join(unverified)}: the run verifies the sha256.")
    hub = hub_uris(given.resolved)
    if hub:
        found.warn(f"Not checked, as the run fetches it from the hub: {', '.join(hub)}.")


def expected_of(resolved: Resolved, field: str) -> Expected | None:
    """What is known of an input's one file."""
    sam = resolved.proposals.sam
    if field != SAM_WEIGHTS or sam is None:
        return None
    sha256 = expected_sha256(sam)
    return Expected(sha256=sha256, size=PUBLIC_BYTES[sam.model] if sha256 == PUBLIC_SHA256.get(sam.model) else None)


def hub_uris(resolved: Resolved) -> Sequence[str]:
    """What is fetched from the hub, which has a client and checks of its own."""
    return list(dict.fromkeys(uri for _, uri in input_uris(resolved) if uri.startswith(HUB)))


def check_data(given: Given, found: Findings) -> Data:
    """Annotations and split, loaded as the run does; the first are fetched if they lie in a storage service."""
    places = fetch_inputs(given.resolved, given.storage, given.cache, fields=SMALL_INPUTS, should_stop=lambda: False)
    located = localize(given.resolved, places)
    section = located.dataset
    dataset = load_dataset(section)
    split = split_dataset(dataset, section)
    train = dataset.refs_of("train")
    images = {train[place].image_id for place in (*split.labeled_refs, *split.unlabeled_refs)}
    found.images, found.labeled = len(images), len(split.image_ids)
    names = image_files(dataset, refs_in_use(dataset, split, section.evaluate))
    return Data(train_images=len(images), file_names=tuple(names), located=located)


def tell_done(given: Given, found: Findings, data: Data) -> None:
    """What an earlier attempt has left."""
    done = find_done(given.storage, given.resolved, given.identity, train_images=data.train_images)
    found.complete, found.stages_done, found.last_checkpoint = done.complete, done.stages, done.checkpoint
    for warning in [*done.warnings, *check_store_access(given.storage, given.resolved, given.attempt)]:
        found.warn(warning)


def size_of(sources: Iterable[Source]) -> int:
    """Bytes that are fetched from storage services."""
    fetched = [source for source in sources if uri_of(source).startswith(S3)]
    return sum(source.stat.size if isinstance(source, ObjectSource) else source.size for source in fetched)
