"""Pictures from a folder or a zip, read and decoded with errors that name the file."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image, UnidentifiedImageError

from semires_trainer.data.records import ImageRecord
from semires_trainer.errors import DataError

MAX_FILE_BYTES = 256 << 20
"""Largest image file that is read, also after unpacking from a zip."""

MAX_PIXELS = 100_000_000
"""Largest picture that is decoded; a small file can claim any size."""

_FIELD = "spec.dataset.images"
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, IndexError)
"""What Pillow and zipfile raise for damaged files."""


class ImageSource:
    """Read-only view of the images in a folder or a .zip file.

    Names can't leave the folder. A zip is opened on the first read of each process, so that sources work in
    forked and in spawned workers.
    """

    def __init__(self, path: str | Path) -> None:
        """Raises DataError if `path` is neither a folder nor a zip."""
        self.path = Path(path).expanduser()
        self._is_zip = self.path.is_file() and zipfile.is_zipfile(self.path)
        self._archive: zipfile.ZipFile | None = None
        self._archive_process = -1
        self._members: dict[str, str] = {}
        if not self._is_zip and not self.path.is_dir():
            problem = "is not a zip file" if self.path.is_file() else "does not exist"
            raise DataError(
                f"{self.path} {problem}",
                field=_FIELD,
                remedy="Give the folder or the .zip that holds the images.",
            )

    def __getstate__(self) -> dict[str, Any]:
        """Without the open archive: file handles don't travel between processes."""
        return {**self.__dict__, "_archive": None, "_archive_process": -1, "_members": {}}

    def read(self, file_name: str) -> bytes:
        """The bytes of one image file.

        DataError naming it if it is absent, too large or damaged in the zip.
        """
        check_name(file_name, self.path)
        try:
            return self._read_member(file_name) if self._is_zip else self._read_file(file_name)
        except (KeyError, FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise DataError(
                f"image {file_name} is not in {self.path}",
                field=_FIELD,
                remedy="Add it, or give the folder (or zip) that holds the files themselves.",
            ) from error
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, *_DAMAGED) as error:
            raise DataError(f"image {file_name} in {self.path} can't be read: {error}", field=_FIELD) from error

    def open(self, record: ImageRecord) -> Image.Image:
        """Read and decode one image; a size other than the record's is a DataError too."""
        return decode_record(self.read(record.file_name), record, source=str(self.path))

    def missing(self, file_names: list[str]) -> list[str]:
        """Those of `file_names` that are not there, without reading any."""
        if self._is_zip:
            self._open_archive()
            return [name for name in file_names if name not in self._members]
        return [name for name in file_names if not (self.path / name).is_file()]

    def _read_file(self, file_name: str) -> bytes:
        path = self.path / file_name
        _check_file_size(path.stat().st_size, file_name, self.path)
        return path.read_bytes()

    def _read_member(self, file_name: str) -> bytes:
        archive = self._open_archive()
        member = archive.getinfo(self._members[file_name])
        _check_file_size(member.file_size, file_name, self.path)
        return archive.read(member)

    def _open_archive(self) -> zipfile.ZipFile:
        if self._archive is None or self._archive_process != os.getpid():
            self._archive = zipfile.ZipFile(self.path)
            self._archive_process = os.getpid()
            self._members = _index_members(self._archive)
        return self._archive


def check_name(file_name: str, source: Path) -> None:
    """DataError for a name that could leave its folder: absolute, with `..`, a drive or a NUL."""
    path = PurePosixPath(file_name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or "\0" in file_name or ":" in path.parts[0]:
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


def _index_members(archive: zipfile.ZipFile) -> dict[str, str]:
    """Name -> member.

    A zip of a folder (train2014.zip) may be addressed without that folder if nothing clashes.
    """
    names = [info.filename for info in archive.infolist() if not info.is_dir()]
    inner: dict[str, str] = {}
    clashes: set[str] = set()
    for name in names:
        short = name.split("/", 1)[-1]
        clashes.update({short} if short in inner else ())
        inner[short] = name
    found = {short: name for short, name in inner.items() if short not in clashes}
    return found | {name: name for name in names}


def _check_file_size(size: int, file_name: str, source: Path) -> None:
    if size > MAX_FILE_BYTES:
        raise DataError(f"image {file_name} in {source} has {size} bytes, more than {MAX_FILE_BYTES}", field=_FIELD)
