"""Are all images there that the run will read? By a listing, or by an archive's directory; no image is read."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Sequence

from semires_trainer.data.images import ImageSource, check_name
from semires_trainer.errors import DataError
from semires_trainer.fetch.images import FIELD, check_present, find_objects
from semires_trainer.fetch.sources import FolderSource, Source, naming
from semires_trainer.fetch.zip import ZipReader
from semires_trainer.storage import RangedFile, Storage

logger = logging.getLogger(__name__)

TAR_MAGIC, TAR_MAGIC_AT = b"ustar", 257
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")
HEAD_BYTES = 512


def check_pictures(storage: Storage, uri: str, source: Source | None, names: Sequence[str]) -> int:
    """Bytes that fetching the images `names` brings to the node; 0 for a local path (`source` None).

    DataError naming the first three that are absent, and for a source that is no folder, zip or tar.
    """
    with naming(FIELD, uri):
        if source is None:
            path = uri.removeprefix("file://")
            check_present(ImageSource(path).missing(list(names)), names, path)
            return 0
        if isinstance(source, FolderSource):
            return sum(stat.size for stat in find_objects(source, names).values())
        return _check_archive(storage.open(uri), names)


def _check_archive(remote: RangedFile, names: Sequence[str]) -> int:
    uri = remote.stat.uri
    for name in names:
        check_name(name, uri)
    reader = ZipReader(remote)
    if zipfile.is_zipfile(reader.file):
        reader.open()
        check_present(reader.missing(names), names, uri)
        return sum(batch.size for batch in reader.batches(names))
    head = remote.read_range(0, min(HEAD_BYTES, remote.stat.size))
    if head[TAR_MAGIC_AT:].startswith(TAR_MAGIC) or head.startswith(COMPRESSED):
        logger.warning(
            "A tar has no directory: whether %s holds all %d images is known when it is fetched.", uri, len(names)
        )
        return remote.stat.size
    remedy = "Give the folder, the .zip or the .tar that holds the images"
    raise DataError(f"{uri} is neither a zip file nor a tar file", field=FIELD, remedy=remedy)
