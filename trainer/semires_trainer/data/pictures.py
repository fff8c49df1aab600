"""Pictures at training size, with the sha256 of their files, and a bounded cache of them."""

from __future__ import annotations

import hashlib
import os
from typing import Any, NamedTuple

from semires_trainer.data.images import ImageSource, decode_record
from semires_trainer.data.records import ImageRecord
from semires_trainer.data.transforms import Pixels, resize_image
from semires_trainer.errors import DataError, InfrastructureError


class BadImageError(DataError):
    """One image can't be used: absent, unreadable, damaged, or of another size than annotated."""

    reason = "BadImage"


class Picture(NamedTuple):
    """One image, ready for augmentation."""

    pixels: Pixels
    """(S, S, 3) uint8, not to be written to."""
    sha256: str
    """Of the image file, hexadecimal: the key of its proposals."""


class PictureLoader:
    """`load(record)` reads, hashes, decodes and resizes an image.

    The first pictures loaded stay in memory until they fill `cache_bytes` (of each process: workers don't
    share them). Nothing is ever evicted, because epochs visit every image once and a rolling cache would
    always miss.
    """

    def __init__(self, source: ImageSource, *, size: int, cache_bytes: int = 0) -> None:
        self.source = source
        self.size = size
        self.cache_bytes = cache_bytes
        self._cache: dict[int, Picture] = {}
        self._last: tuple[int, Picture] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the pictures, which another process reads for itself."""
        return {**self.__dict__, "_cache": {}, "_last": None}

    def load(self, record: ImageRecord) -> Picture:
        """The picture of `record`.

        BadImageError naming file and record if it is absent, damaged or of another size; InfrastructureError if the
        folder or archive of all images is gone.
        """
        if self._last is not None and self._last[0] == record.id:
            return self._last[1]
        picture = self._cache.get(record.id) or self._read(record)
        self._last = (record.id, picture)
        return picture

    def _read(self, record: ImageRecord) -> Picture:
        try:
            content = self.source.read(record.file_name)
            decoded = decode_record(content, record, source=str(self.source.path))
        except DataError as error:
            if not os.path.exists(self.source.path):
                raise InfrastructureError(
                    f"{self.source.path} is gone while it is read from",
                    field="spec.dataset.images",
                    remedy="Look at its disk or mount; start again to go on from the last checkpoint",
                ) from error
            raise BadImageError(error.message, field=error.field, remedy=error.remedy) from error
        picture = Picture(resize_image(decoded, self.size), hashlib.sha256(content).hexdigest())
        if (len(self._cache) + 1) * picture.pixels.nbytes <= self.cache_bytes:
            self._cache[record.id] = picture
        return picture


def is_usable(source: ImageSource, record: ImageRecord) -> bool:
    """Whether an image can be read and decoded, at the size its annotation says."""
    try:
        PictureLoader(source, size=1).load(record)
    except BadImageError:
        return False
    return True
