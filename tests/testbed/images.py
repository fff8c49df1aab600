"""Container images without a registry: archives that containerd imports.

Those of one program are written here, byte by byte; a Dockerfile is built by buildah on a base that debootstrap made.
All but the last are kept in the cache.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from testbed import go_tools, programs
from testbed.go_tools import Say

PAUSE_IMAGE = "localhost/pause:1"
BASE_IMAGE = "localhost/semires-base:testbed"
"""Debian with Python and this machine's certificate authorities."""
NODE_BASE_IMAGE = "localhost/semires-node-base:testbed"
"""The same, whose `python` is the one that the node gives to each container, with torch."""
NODE_PYTHON = "/opt/node/venv"
"""Where the node mounts this project's Python environment."""
BASE_PACKAGES = "ca-certificates,python3,python3-venv"
_AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
_PIP_CONFIGS = (Path("/etc/pip.conf"), Path("~/.config/pip/pip.conf"), Path("~/.pip/pip.conf"))
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How the image's process starts."""

    entrypoint: Sequence[str] = ()
    """Command."""
    user: str = ""
    """UID:GID; root if empty."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables."""


def pause_archive() -> Path:
    """The image of a pod's sandbox."""
    program = programs.PAUSE.path
    return _image_of_program(PAUSE_IMAGE, program, Settings(entrypoint=["/pause"], user="65535:65535"))


def training_operator_archive(image: str) -> Path:
    """The training-operator under the name that its manifests use."""
    return _image_of_program(image, programs.TRAINING_OPERATOR.path, Settings(entrypoint=["/manager"]), name="manager")


def base_archive(say: Say = lambda _: None) -> Path:
    """BASE_IMAGE, made once: about a minute, and 250 MB from this machine's Debian mirror."""
    return _base(BASE_IMAGE, "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", say)


def node_base_archive(say: Say = lambda _: None) -> Path:
    """NODE_BASE_IMAGE, of the same layer."""
    return _base(NODE_BASE_IMAGE, f"{NODE_PYTHON}/bin:/usr/local/bin:/usr/bin:/bin", say)


def build_image(
    tag: str,
    dockerfile: Path,
    context: Path,
    *,
    base: Path,
    archive: Path,
    arguments: Mapping[str, str] | None = None,
    target: str = "",
) -> Path:
    """Build a Dockerfile whose `ARG BASE` is the image in the archive `base`; write the result to `archive`."""
    base_tag = _tag_of(base)
    _buildah("pull", "--quiet", f"docker-archive:{base}")
    given = {"BASE": base_tag, **(arguments or {})}
    options = [word for name, value in given.items() for word in ("--build-arg", f"{name}={value}")]
    stage = ["--target", target] if target else []
    # chroot: the other isolations want a runtime that this kernel's cgroups may refuse.
    build = ["build", "--layers", "--isolation", "chroot", "--pull=never", "--quiet", "--tag", tag]
    _buildah(*build, "--file", str(dockerfile), *options, *stage, str(context))
    archive.unlink(missing_ok=True)  # buildah adds to an archive that exists
    _buildah("push", "--quiet", tag, f"docker-archive:{archive}:{tag}")
    return archive


def _image_of_program(tag: str, program: Path, settings: Settings, *, name: str = "") -> Path:
    key = hashlib.sha256(f"{program} {tag}".encode()).hexdigest()[:16]
    archive = _images_folder() / f"{program.name}-{key}.tar"
    with go_tools.locked(_images_folder() / f".{program.name}.lock"):
        if not archive.exists():
            with tempfile.TemporaryDirectory(dir=_images_folder()) as folder:
                layer = Path(folder) / "layer.tar"
                with tarfile.open(layer, "w") as tar:
                    tar.add(program, arcname=name or program.name, filter=_owned_by_root)
                write_archive(archive, tag, layer, settings)
    return archive


def write_archive(archive: Path, tag: str, layer: Path, settings: Settings) -> None:
    """An image of one layer, in the form of `docker save`; never visible half written."""
    with layer.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    config = json.dumps(
        {
            "architecture": _ARCHITECTURES[platform.machine()],
            "os": "linux",
            "config": {
                "Entrypoint": list(settings.entrypoint),
                "User": settings.user,
                "Env": [f"{name}={value}" for name, value in settings.environment.items()],
            },
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
            "history": [{"created_by": "testbed"}],  # buildah counts layers by it
        }
    ).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [tag], "Layers": [f"{digest}.tar"]}]).encode()
    partial = archive.with_suffix(".partial")
    with tarfile.open(partial, "w") as tar:
        tar.add(layer, arcname=f"{digest}.tar", filter=_owned_by_root)
        for name, text in ((config_name, config), ("manifest.json", manifest)):
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text))
    partial.replace(archive)


def _base(tag: str, path: str, say: Say) -> Path:
    machine = [file.expanduser() for file in (_AUTHORITIES, *_PIP_CONFIGS)]
    ingredients = [BASE_PACKAGES, sys.base_prefix, *(file.read_text() for file in machine if file.exists())]
    key = hashlib.sha256("\n".join(ingredients).encode()).hexdigest()[:16]
    layer, archive = (
        _images_folder() / f"{name}-{key}.tar" for name in ("base-layer", tag.split("/")[1].split(":")[0])
    )
    with go_tools.locked(_images_folder() / ".base.lock", say=say):
        if not layer.exists():
            say("making the base image with debootstrap (about a minute)")
            _make_base_layer(layer)
        if not archive.exists():
            write_archive(archive, tag, layer, Settings(environment={"PATH": path, "LANG": "C.UTF-8"}))
    return archive


def _make_base_layer(layer: Path) -> None:
    suite, mirror = _debian()
    with tempfile.TemporaryDirectory(dir=_images_folder()) as folder:
        root = Path(folder) / "root"
        command = ["debootstrap", "--variant=minbase", f"--include={BASE_PACKAGES}", suite, str(root), *mirror]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode != 0:
            raise RuntimeError(f"debootstrap failed: {(result.stdout + result.stderr)[-2000:]}")
        _take_from_machine(root)
        _open_way_to_interpreter(root)
        partial = layer.with_suffix(".partial")
        with tarfile.open(partial, "w") as tar:
            tar.add(root, arcname=".", filter=_wanted)
        partial.replace(layer)


def _take_from_machine(root: Path) -> None:
    """A machine behind a private authority, or a private index, has these; pip in a build needs them."""
    if _AUTHORITIES.exists():
        shutil.copyfile(_AUTHORITIES, root / _AUTHORITIES.relative_to("/"))
    for config in _PIP_CONFIGS:
        if config.expanduser().exists():
            shutil.copyfile(config.expanduser(), root / "etc" / "pip.conf")


def _open_way_to_interpreter(root: Path) -> None:
    """The environment's interpreter is mounted at its own path, in a home folder perhaps, where others may not go."""
    folder = root
    for word in Path(sys.base_prefix).parts[1:]:
        folder = folder / word
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)


def _debian() -> tuple[str, list[str]]:
    """This machine's release, and the mirror that it is configured with."""
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    suite = release["VERSION_CODENAME"].strip('"')
    command = ["apt-get", "indextargets", "--format", "$(CODENAME) $(REPO_URI)", "Created-By: Packages"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return suite, [line.split()[1] for line in found if line.split()[0] == suite][:1]


def _wanted(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    unwanted = ("./var/cache/apt/", "./var/lib/apt/lists/", "./usr/share/doc/", "./usr/share/locale/", "./dev/")
    return None if entry.name.startswith(unwanted) else entry


def _owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o755
    return entry


def _tag_of(archive: Path) -> str:
    with tarfile.open(archive) as tar:
        manifest = tar.extractfile("manifest.json")
        assert manifest is not None
        return str(json.load(manifest)[0]["RepoTags"][0])


def _images_folder() -> Path:
    folder = go_tools.cache_folder() / "images"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _buildah(*arguments: str) -> None:
    result = subprocess.run(["buildah", *arguments], capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"buildah {arguments[0]} failed: {result.stderr[-3000:]}")
