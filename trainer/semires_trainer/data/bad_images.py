"""Images that turned out unusable while a run went on: one marker file each, in a folder that all processes of a node
share.

Whether an image is bad follows from its file, and which sample takes its place from the sample's address, so
nothing that is trained depends on which process met it first. The markers only save a second look, and count.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from semires_trainer import atomic
from semires_trainer.errors import DataError, InfrastructureError

LISTED = 5
"""Bad images that an error names; the others stand in bad-images.json."""


class TooManyBadImages(DataError):
    """More training images are bad than `spec.dataset.badImageLimit` allows."""

    reason = "TooManyBadImages"


@dataclass(frozen=True, kw_only=True, slots=True)
class BadImages:
    """The bad images that are known on this node. Cheap to pickle; every call looks at the folder."""

    folder: Path
    """Where the markers lie: `<work folder>/.run/bad-images`."""
    limit: int
    """`spec.dataset.badImageLimit`."""

    def __contains__(self, file_name: str) -> bool:
        """Whether an image is known to be bad: one look for a file, about 10 µs."""
        return self._marker(file_name).exists()

    def add(self, file_name: str, reason: str) -> None:
        """Note a bad image; noting one again changes nothing.

        Raises:
            TooManyBadImages: there are more than `limit` now.
            InfrastructureError: the marker cannot be written.
        """
        if file_name not in self:
            try:
                atomic.write_json(self._marker(file_name), {"file_name": file_name, "reason": reason})
            except OSError as error:
                raise InfrastructureError(
                    f"image {file_name} is bad, which can't be noted in {self.folder}: {error.strerror}",
                    remedy="Free space on this disk; start again to go on from the last checkpoint",
                ) from error
        self.check_limit()

    def count(self) -> int:
        """How many are known: one listing of a folder that holds no more than a few files."""
        return len(self._markers())

    def names(self) -> list[str]:
        """Their file names, sorted."""
        return list(self.reasons())

    def reasons(self) -> dict[str, str]:
        """Why each is bad, by file name, sorted."""
        records = [json.loads(path.read_text(encoding="utf-8")) for path in self._markers()]
        return dict(sorted((record["file_name"], record["reason"]) for record in records))

    def forget_mended(self, is_good: Callable[[str], bool]) -> None:
        """Look at those of an earlier start again: a file that was repaired meanwhile is used. One process of a node.

        TooManyBadImages if more than `limit` are still bad: before the run has cost anything.
        """
        for file_name in self.names():
            if is_good(file_name):
                self._marker(file_name).unlink(missing_ok=True)
        self.check_limit()

    def check_limit(self) -> None:
        """TooManyBadImages, naming the first, if there are more than `limit`."""
        if self.count() <= self.limit:
            return
        reasons = self.reasons()
        first = "; ".join(list(reasons.values())[:LISTED])
        raise TooManyBadImages(
            f"{len(reasons)} images are bad, {self.limit} are allowed: {first}{'; ...' * (len(reasons) > LISTED)}",
            field="spec.dataset.badImageLimit",
            remedy="Repair the files (bad-images.json lists all), or allow more; the run then goes on where it stopped",
        )

    def _marker(self, file_name: str) -> Path:
        return self.folder / f"{hashlib.sha256(file_name.encode()).hexdigest()[:32]}.json"

    def _markers(self) -> list[Path]:
        return [path for path in self.folder.glob("*.json") if not path.name.startswith(".")]
