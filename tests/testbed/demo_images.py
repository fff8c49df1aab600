"""The two images of this project, built by buildah from its Dockerfiles, and kept under a key of all they are made of.

Their tags have the key in them: a node that has an older image does not mistake it for this one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from testbed import go_tools, images
from testbed.cluster import REPOSITORY
from testbed.go_tools import Say

CONTEXT = (
    *("LICENSE", "README.md", "pyproject.toml"),
    *("docker", "requirements", "operator/semires_operator", "trainer/semires_trainer"),
)
"""What the Dockerfiles copy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """An image that lies in an archive."""

    tag: str
    archive: Path


def operator_image(say: Say = lambda _: None) -> Image:
    """The operator, on Debian. The first build takes two minutes, one after a change of code half of one."""
    return _image("operator", "", images.base_archive, say)


def trainer_image(say: Say = lambda _: None) -> Image:
    """The trainer's code alone: the node brings torch (docs/testbed.md)."""
    return _image("trainer", "thin", images.node_base_archive, say)


def _image(name: str, target: str, base_of: Callable[[Say], Path], say: Say) -> Image:
    folder = go_tools.cache_folder() / "images"
    with go_tools.locked(folder / f".{name}-image.lock", say=say):
        base = base_of(say)
        key = _key_of(base, name)
        image = Image(tag=f"localhost/semires-{name}:{key}", archive=folder / f"semires-{name}-{key}.tar")
        if not image.archive.exists():
            say(f"building the image {image.tag} with buildah")
            _build(image, name, target, base)
            for older in folder.glob(f"semires-{name}-*.tar"):
                if older != image.archive:
                    older.unlink()
    return image


def _build(image: Image, name: str, target: str, base: Path) -> None:
    partial = image.archive.with_suffix(".partial")
    dockerfile = REPOSITORY / "docker" / f"{name}.Dockerfile"
    images.build_image(image.tag, dockerfile, REPOSITORY, base=base, archive=partial, target=target)
    partial.replace(image.archive)


def _key_of(base: Path, name: str) -> str:
    digest = hashlib.sha256(f"{base.name} {name}".encode())
    for path in _sources():
        digest.update(f"{path.relative_to(REPOSITORY)}\0{path.stat().st_mode}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


def _sources() -> list[Path]:
    roots = [REPOSITORY / part for part in CONTEXT]
    files = [path for root in roots for path in ([root] if root.is_file() else root.rglob("*")) if path.is_file()]
    return sorted(path for path in files if "__pycache__" not in path.parts)
