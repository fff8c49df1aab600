"""All inputs of a job, once per node: found first, so that a wrong URI is told before anything is fetched."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from semires_trainer.config import Resolved
from semires_trainer.data.refer import INSTANCES, refs_candidates
from semires_trainer.fetch.files import Node, fetch_folder, fetch_object
from semires_trainer.fetch.images import FIELD as IMAGES
from semires_trainer.fetch.images import fetch_images, images_in_use
from semires_trainer.fetch.places import Places, localize
from semires_trainer.fetch.progress import FetchProgress, Tally
from semires_trainer.fetch.sources import (
    FolderSource,
    ObjectSource,
    Source,
    find_files,
    find_object,
    find_source,
    hub_files,
    naming,
)
from semires_trainer.inputs import input_uris
from semires_trainer.proposals.sam_key import expected_sha256
from semires_trainer.signals import StopRequested
from semires_trainer.storage import Storage
from semires_trainer.storage.failures import ObjectChanged
from semires_trainer.storage.parallel import Cancelled

S3 = "s3://"
CHANGES = 3
"""How often an input may be replaced while it is fetched before we give up."""
BERT, INIT_FROM = "spec.model.bert", "spec.model.initFrom"
ANNOTATIONS, IMAGE_IDS = "spec.dataset.annotations", "spec.dataset.labeled.imageIdsFile"
SAM_WEIGHTS = "spec.proposals.sam.weights"
VOCAB_FILE = "vocab.txt"


@dataclass(frozen=True, kw_only=True)
class Want:
    """An input that lies in a storage service."""

    field: str
    uri: str
    find: Callable[[Storage, str], Source]
    sha256: str | None = None


def fetch_inputs(
    resolved: Resolved,
    storage: Storage,
    cache: Path,
    *,
    fields: Collection[str] | None = None,
    report: Callable[[FetchProgress], None] | None = None,
    should_stop: Callable[[], bool],
) -> Places:
    """Bring every s3:// input of a job (with `fields`: only these) into `cache`, which all runs on this node share.

    Safe to be killed at any instant and to run in several processes at once: each object is fetched once, and counts
    only when it is whole. What is here already, with the same etag, is not fetched again. Plain paths, file:// and
    hf:// are left where they are. Of images only those of the chosen splits are fetched.

    `report` is called by one thread at a time. Raises StopRequested soon after `should_stop()` is true (what has
    arrived is kept), DataError for data that is absent or damaged, DiskFull before a fetch for which there is no room,
    and the errors of `storage.failures`, each naming the manifest's field.
    """
    tally = Tally(report)
    paths = {field: uri.removeprefix("file://") for field, uri in _input_uris(resolved)}
    if not any(uri.startswith(S3) for uri in paths.values()):
        return Places(paths=paths)
    node = Node(storage=storage.stopping(should_stop), cache=cache, tally=tally, should_stop=should_stop)
    try:
        paths |= _fetch_all(node, resolved, paths, fields)
    except Cancelled:
        raise StopRequested(143, "What was fetched is kept; start again to go on.") from None
    return Places(
        paths={field: path for field, path in paths.items() if not path.startswith(S3)},
        fetched_files=tally.fetched_files,
        fetched_bytes=tally.fetched_bytes,
        found_files=tally.found_files,
        found_bytes=tally.found_bytes,
    )


def _input_uris(resolved: Resolved) -> list[tuple[str, str]]:
    """With `bert` beside `initFrom`: a checkpoint that has no vocabulary takes BERT's."""
    listed = input_uris(resolved)
    return [*listed, (BERT, resolved.model.bert)] if resolved.model.init_from else listed


def wanted_inputs(resolved: Resolved) -> dict[str, Want]:
    """What a job reads from a storage service, by the manifest's field."""
    return {field: _want(resolved, field, uri) for field, uri in input_uris(resolved) if uri.startswith(S3)}


def find_input(storage: Storage, want: Want) -> Source:
    """What lies behind the URI of an input; failures name its field."""
    with naming(want.field, want.uri):
        return want.find(storage, want.uri)


def _fetch_all(
    node: Node, resolved: Resolved, paths: Mapping[str, str], fields: Collection[str] | None
) -> dict[str, str]:
    wants = {field: want for field, want in wanted_inputs(resolved).items() if fields is None or field in fields}
    sources = {field: find_input(node.storage, want) for field, want in wants.items()}
    if fields is None and (vocabulary := vocabulary_of_bert(resolved, sources.get(INIT_FROM))) is not None:
        wants[BERT] = vocabulary
        sources[BERT] = find_input(node.storage, vocabulary)
    fetched: dict[str, str] = {}
    for field in sorted(wants, key=[ANNOTATIONS, IMAGE_IDS, IMAGES, *wants].index):
        local = localize(resolved, Places(paths={**paths, **fetched}))
        images = images_in_use(local) if field == IMAGES else []
        fetched[field] = str(_fetch(node, wants[field], sources[field], images))
    return fetched


def _want(resolved: Resolved, field: str, uri: str) -> Want:
    """How an input is found; the dataset and the generator say what belongs to it."""
    if field == ANNOTATIONS and resolved.dataset.name != "Custom":
        return Want(field=field, uri=uri, find=lambda storage, uri: _find_refer(storage, uri, resolved.dataset.name))
    if field in (ANNOTATIONS, IMAGE_IDS):
        return Want(field=field, uri=uri, find=find_object)
    if field == SAM_WEIGHTS and resolved.proposals.sam is not None:
        return Want(field=field, uri=uri, find=find_object, sha256=expected_sha256(resolved.proposals.sam))
    return Want(field=field, uri=uri, find=_find_model if field in (BERT, "spec.model.swin") else find_source)


def _find_refer(storage: Storage, uri: str, name: str) -> Source:
    """The two files of one of REFER's data sets, out of all that lie there."""
    base = uri.rstrip("/")
    places = [f"{base}/{candidate}" for candidate in refs_candidates(name)]
    return find_files(
        storage,
        [{place.rpartition("/")[2]: place, INSTANCES: f"{place.rpartition('/')[0]}/{INSTANCES}"} for place in places],
    )


def _find_model(storage: Storage, uri: str) -> Source:
    found = find_source(storage, uri)
    return found if isinstance(found, ObjectSource) else FolderSource(uri=uri, files=hub_files(found.files))


def _find_vocabulary(storage: Storage, uri: str) -> Source:
    return find_files(storage, [{VOCAB_FILE: f"{uri.rstrip('/')}/{VOCAB_FILE}"}])


def vocabulary_of_bert(resolved: Resolved, checkpoint: Source | None) -> Want | None:
    """vocab.txt of a `bert` in a storage service, if a start from a checkpoint (if it lies there too) reads it."""
    model = resolved.model
    if not model.init_from or model.vocab or not model.bert.startswith(S3):
        return None
    if isinstance(checkpoint, FolderSource):
        is_there = VOCAB_FILE in checkpoint.files
    else:
        is_there = (Path(model.init_from.removeprefix("file://")).expanduser() / VOCAB_FILE).is_file()
    return None if is_there else Want(field=BERT, uri=model.bert, find=_find_vocabulary)


def _fetch(node: Node, want: Want, source: Source, images: Sequence[str]) -> Path:
    """The local path; an input that is replaced meanwhile is looked for again."""
    with naming(want.field, want.uri):
        for changes in range(CHANGES, 0, -1):
            try:
                return _fetch_once(node, want, source, images)
            except ObjectChanged:
                if changes == 1:
                    raise
                source = find_input(node.storage, want)
    raise AssertionError("not reached")


def _fetch_once(node: Node, want: Want, source: Source, images: Sequence[str]) -> Path:
    if want.field == IMAGES:
        return fetch_images(node, source, images)
    if isinstance(source, ObjectSource):
        return fetch_object(node, want.field, source, sha256=want.sha256)
    return fetch_folder(node, want.field, source)
