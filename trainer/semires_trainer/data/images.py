"""Pictures from a folder, a zip or a tar, read and decoded with errors that name the file."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from PIL import Image, UnidentifiedImageError

from semires_trainer.data.records import ImageRecord
from semires_trainer.errors import DataError

MAX_FILE_BYTES = 256 << 20
"""Largest image file that is read, also after unpacking from an archive."""

MAX_PIXELS = 100_000_000
"""Largest picture that is decoded; a small file can claim any size."""

_FIELD = "spec.dataset.images"
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, IndexError)
"""What Pillow, zipfile and tarfile raise for damaged files."""

_BAD_ARCHIVE = (zipfile.BadZipFile, tarfile.TarError, NotImplementedError, RuntimeError)
"""The same, and for what an archive holds encrypted or compressed in another way."""


class ImageSource:
    """Read-only view of the images in a folder, a .zip or a .tar file.

    Names can't leave the folder. An archive is opened on the first read of each process, so that sources work in
    forked and in spawned workers.
    """

    def __init__(self, path: str | Path) -> None:
        """Raises DataError if `path` is none of the three; a compressed tar can't be read at random."""
        self.path = Path(path).expanduser()
        self._files = _open_files(self.path)

    def read(self, file_name: str) -> bytes:
        """The bytes of one image file.

        DataError naming it if it is absent, too large or damaged in the archive.
        """
        check_name(file_name, self.path)
        try:
            with reading(file_name, self.path):
                return self._files.read(file_name)
        except (KeyError, FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise DataError(
                f"image {file_name} is not in {self.path}",
                field=_FIELD,
                remedy="Add it, or give the folder (or archive) that holds the files themselves.",
            ) from error

    def open(self, record: ImageRecord) -> Image.Image:
        """Read and decode one image; a size other than the record's is a DataError too."""
        return decode_record(self.read(record.file_name), record, source=str(self.path))

    def missing(self, file_names: list[str]) -> list[str]:
        """Those of `file_names` that are not there, without reading any."""
        return [name for name in file_names if not self._files.holds(name)]


class _Files(Protocol):
    """Where the images lie; picklable."""

    def holds(self, name: str) -> bool: ...
    def read(self, name: str) -> bytes: ...


def _open_files(path: Path) -> _Files:
    if path.is_dir():
        return _Folder(path)
    if path.is_file() and zipfile.is_zipfile(path):
        return _Zip(path)
    if path.is_file() and _is_plain_tar(path):
        return _Tar(path)
    problem, remedy = "does not exist", "Give the folder, the .zip or the .tar that holds the images."
    if path.is_file():
        problem = "is neither a zip file nor a tar file"
        if tarfile.is_tarfile(path):
            problem, remedy = "is a compressed tar, which can't be read in any order", "Unpack it, or make it a .tar."
    raise DataError(f"{path} {problem}", field=_FIELD, remedy=remedy)


def _is_plain_tar(path: Path) -> bool:
    try:
        tarfile.open(path, "r:").close()
    except (tarfile.TarError, OSError):
        return False
    return True


class _Folder:
    def __init__(self, path: Path) -> None:
        self._path = path

    def holds(self, name: str) -> bool:
        return (self._path / name).is_file()

    def read(self, name: str) -> bytes:
        path = self._path / name
        check_size(path.stat().st_size, name, self._path)
        return path.read_bytes()


class _Zip:
    """Opened again in each process: file handles don't travel between processes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._archive: zipfile.ZipFile | None = None
        self._process = -1
        self._members: dict[str, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_archive": None, "_process": -1, "_members": {}}

    def holds(self, name: str) -> bool:
        self._open()
        return name in self._members

    def read(self, name: str) -> bytes:
        archive = self._open()
        member = archive.getinfo(self._members[name])
        check_size(member.file_size, name, self._path)
        return archive.read(member)

    def _open(self) -> zipfile.ZipFile:
        if self._archive is None or self._process != os.getpid():
            with archive_errors(self._path):
                self._archive = zipfile.ZipFile(self._path)
            self._process = os.getpid()
            self._members = index_members(item.filename for item in self._archive.infolist() if not item.is_dir())
        return self._archive


class _Tar:
    """Where each file lies is found once, by hopping from header to header, and travels between processes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[str, tuple[int, int]] = {}
        """Name -> offset and size of the content."""

    def holds(self, name: str) -> bool:
        return name in self._index()

    def read(self, name: str) -> bytes:
        offset, size = self._index()[name]
        check_size(size, name, self._path)
        with self._path.open("rb") as handle:
            handle.seek(offset)
            content = handle.read(size)
        if len(content) != size:
            raise OSError("the archive is cut short")
        return content

    def _index(self) -> dict[str, tuple[int, int]]:
        if not self._places:
            with archive_errors(self._path), tarfile.open(self._path, "r:") as archive:
                places = {item.name: (item.offset_data, item.size) for item in archive if is_plain_file(item)}
            self._places = {name: places[member] for name, member in index_members(places).items()}
        return self._places


@contextlib.contextmanager
def reading(file_name: str, source: object) -> Iterator[None]:
    """DataError naming the image for whatever a damaged archive raises; absence (KeyError, ...) passes through."""
    try:
        yield
    except (KeyError, FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise
    except (*_BAD_ARCHIVE, *_DAMAGED) as error:
        raise DataError(f"image {file_name} in {source} can't be read: {error}", field=_FIELD) from error


@contextlib.contextmanager
def archive_errors(source: object) -> Iterator[None]:
    """DataError for a zip or tar whose list of files is damaged."""
    try:
        yield
    except (*_BAD_ARCHIVE, *_DAMAGED) as error:
        remedy = "Copy the archive again, or make a new one."
        raise DataError(f"{source} is damaged: {error}", field=_FIELD, remedy=remedy) from error


def is_plain_file(member: tarfile.TarInfo) -> bool:
    """Whether a tar's member holds its content in one piece: no link, no folder, not sparse."""
    return member.isreg() and not member.issparse()


def check_name(file_name: str, source: object) -> None:
    """DataError for a name that could leave its folder: absolute, with `..`, a drive or a NUL."""
    path = PurePosixPath(file_name.replace("\\", "/"))
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in file_name or ":" in path.parts[0]:
        raise DataError(
            f"image name {file_name!r} leads out of {source}",
            field="file_name",
            remedy="Use names relative to the images folder.",
        )


def decode(content: bytes, *, name: str = "image") -> Image.Image:
    """Decode an image file to RGB.

    DataError naming it if it is damaged, truncated, or too large to be decoded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(content))
        if picture.width * picture.height > MAX_PIXELS:
            raise DataError(
                f"{name} has {picture.width} x {picture.height} pixels, more than {MAX_PIXELS}",
                remedy="Make it smaller.",
            )
        return picture.convert("RGB")
    except UnidentifiedImageError as error:
        raise DataError(f"{name} is not an image", remedy="Replace or remove the file.") from error
    except (Image.DecompressionBombError, *_DAMAGED) as error:
        raise DataError(f"{name} can't be decoded: {error}", remedy="Replace or remove the file.") from error


def decode_record(content: bytes, record: ImageRecord, *, source: str) -> Image.Image:
    """Decode the file of `record`; DataError naming file and record if it is damaged or of another size."""
    name = f"image {record.file_name} (id {record.id}) in {source}"
    picture = decode(content, name=name)
    if picture.size != (record.width, record.height):
        raise DataError(
            f"{name} has {picture.width} x {picture.height} pixels, its annotation says "
            f"{record.width} x {record.height}",
            field="width, height",
            remedy="Use the image that was annotated; a photo turned by its EXIF tag must be saved upright.",
        )
    return picture


def index_members(names: Iterable[str]) -> dict[str, str]:
    """Name -> member, for the files of an archive.

    An archive of a folder (train2014.zip) may be addressed without that folder if nothing clashes.
    """
    full = {plain_name(name): name for name in names}
    inner: dict[str, str] = {}
    clashes: set[str] = set()
    for plain, name in full.items():
        short = plain.split("/", 1)[-1]
        clashes.update({short} if short in inner else ())
        inner[short] = name
    return {short: name for short, name in inner.items() if short not in clashes} | full


def plain_name(name: str) -> str:
    """A member's name without the ./ that `tar -C folder .` writes."""
    return name.removeprefix("./")


def check_size(size: int, file_name: str, source: object) -> None:
    """DataError for an image file that is too large to be read."""
    if size > MAX_FILE_BYTES:
        raise DataError(f"image {file_name} in {source} has {size} bytes, more than {MAX_FILE_BYTES}", field=_FIELD)
