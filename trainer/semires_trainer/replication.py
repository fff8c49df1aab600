"""Files that every node needs, sent from one to the others through the processes that train: nodes share no disk.

On one node nothing is sent. All ranks take part in each call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from semires_trainer.atomic import file_sha256, replace_directory, replace_file
from semires_trainer.distributed import World
from semires_trainer.errors import InfrastructureError

CHUNK_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Listed:
    """A file of the node that sends."""

    name: str
    size: int
    sha256: str


def mirror(world: World, folder: Path) -> None:
    """Make `folder` on every node what it is on rank 0's, whole or not at all; nothing if it is absent there."""
    if world.nodes == 1:
        return
    listed = world.broadcast(_list(folder) if world.is_main else None, source=0)
    is_same = not world.is_leader or _list(folder) == listed
    if not listed or world.all(is_same):
        return
    if is_same:
        for each in listed:
            _pass_on(world, folder / each.name, each, source=0, target=None)
        return
    with replace_directory(folder) as temporary:
        for each in listed:
            _pass_on(world, folder / each.name, each, source=0, target=temporary / each.name)


def spread(world: World, folder: Path, *, counts: Callable[[str], bool]) -> None:
    """Give every node the files of `folder` that any node has and whose name counts. They never change."""
    if world.nodes == 1:
        return
    for source in world.leaders:
        names = world.broadcast(_names(folder, counts) if world.rank == source else None, source=source)
        for name in names:
            path = folder / name
            lacks_it = world.is_leader and not path.is_file()
            if not world.any(lacks_it):
                continue
            each = world.broadcast(_listed(path) if world.rank == source else None, source=source)
            if lacks_it:
                with replace_file(path) as temporary:
                    _pass_on(world, path, each, source=source, target=temporary)
            else:
                _pass_on(world, path, each, source=source, target=None)


def _names(folder: Path, counts: Callable[[str], bool]) -> list[str]:
    return sorted(path.name for path in folder.glob("*") if path.is_file() and counts(path.name))


def _list(folder: Path) -> list[Listed]:
    return [_listed(folder / name) for name in _names(folder, lambda name: not name.startswith("."))]


def _listed(path: Path) -> Listed:
    return Listed(name=path.name, size=path.stat().st_size, sha256=file_sha256(path))


def _pass_on(world: World, path: Path, listed: Listed, *, source: int, target: Path | None) -> None:
    """Send the file at `path` on rank `source`; ranks with a `target` write it there and check it."""
    nowhere = Path("/dev/null")
    with (
        (path if world.rank == source else nowhere).open("rb") as reader,
        (target or nowhere).open("wb") as writer,
    ):
        for start in range(0, listed.size, CHUNK_BYTES):
            size = min(CHUNK_BYTES, listed.size - start)
            chunk = torch.empty(size, dtype=torch.uint8)
            if world.rank == source:
                reader.readinto(chunk.numpy().data)
            chunk = chunk.to(world.device)
            dist.broadcast(chunk, src=source)
            writer.write(chunk.cpu().numpy().data)
    if target is not None and file_sha256(target) != listed.sha256:
        raise InfrastructureError(f"{listed.name} was damaged on its way between nodes", remedy="Start again")
