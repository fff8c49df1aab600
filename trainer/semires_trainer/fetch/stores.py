"""Proposals that jobs share: shards go to and from a storage service, never changed, named by their content."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from semires_trainer.fetch.sources import list_folder, naming
from semires_trainer.proposals.store import StoreKey
from semires_trainer.storage import Storage, Transfer
from semires_trainer.storage.parallel import in_order

FIELD = "spec.proposals.store"
GENERATOR_FILE = "generator.json"
TRANSFERS = 4
"""Shards in flight; each may be cut into parts of its own."""
_SHARD = re.compile(r"([0-9a-f]{64})\.safetensors")


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchange:
    """What an exchange of shards moved."""

    files: int
    bytes: int


def pull_store(
    key: StoreKey, storage: Storage, uri: str, root: Path, *, should_stop: Callable[[], bool] = lambda: False
) -> Exchange:
    """Bring the shards of one generator from the store at `uri` to the store at `root`, each checked by its name.

    A store that is not there yet has no shards. Raises Cancelled once `should_stop()` is true; what has arrived stays.
    """
    remote, folder = f"{uri.rstrip('/')}/{key.folder_name}", root / key.folder_name
    with naming(FIELD, uri):
        view = storage.stopping(should_stop)
        listed = list_folder(view, remote)
        missing = [name for name in listed if _is_shard(name) and not (folder / name).is_file()]
        if missing and GENERATOR_FILE in listed and not (folder / GENERATOR_FILE).exists():
            view.download(f"{remote}/{GENERATOR_FILE}", folder / GENERATOR_FILE)

        def pull(name: str, _stop: threading.Event) -> Transfer:
            return view.download(f"{remote}/{name}", folder / name, sha256=_sha256_of(name))

        return _sum(list(in_order(pull, missing, threads=TRANSFERS)))


def push_store(
    key: StoreKey, storage: Storage, root: Path, uri: str, *, should_stop: Callable[[], bool] = lambda: False
) -> Exchange:
    """Send the shards of one generator that the store at `uri` lacks; generator.json before the first.

    Any number of jobs may send at once: the same shard has the same content. Raises Cancelled as `pull_store`.
    """
    remote, folder = f"{uri.rstrip('/')}/{key.folder_name}", root / key.folder_name
    local = sorted(path.name for path in folder.glob("*.safetensors") if _is_shard(path.name))
    if not local:
        return Exchange(files=0, bytes=0)
    with naming(FIELD, uri):
        view = storage.stopping(should_stop)
        listed = list_folder(view, remote)
        if GENERATOR_FILE not in listed:
            view.upload(folder / GENERATOR_FILE, f"{remote}/{GENERATOR_FILE}")

        def push(name: str, _stop: threading.Event) -> Transfer:
            return view.upload(folder / name, f"{remote}/{name}", sha256=_sha256_of(name))

        return _sum(list(in_order(push, [name for name in local if name not in listed], threads=TRANSFERS)))


def _is_shard(name: str) -> bool:
    return _SHARD.fullmatch(name) is not None


def _sha256_of(shard_name: str) -> str:
    return shard_name.removesuffix(".safetensors")


def _sum(transfers: list[Transfer]) -> Exchange:
    moved = [transfer.moved for transfer in transfers if transfer.moved]
    return Exchange(files=len(moved), bytes=sum(moved))
