"""What rank 0 tells of bad images: a warning for each, their number as a metric, and the list in the output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from semires_trainer import atomic
from semires_trainer.data.bad_images import BadImages
from semires_trainer.telemetry import Reporter

T = TypeVar("T")

SCHEMA_VERSION = 1
FILE = "bad-images.json"
METRIC = "data/bad_images"


class BadImageReport:
    """Tells what is new since the last look. Only one process has one."""

    def __init__(self, bad_images: BadImages, reporter: Reporter, output: Path) -> None:
        self._bad_images = bad_images
        self._reporter = reporter
        self._path = output / FILE
        self._told: set[str] = set()
        self._seen = -1
        self._logged = 0

    def tell(self) -> None:
        """Warn of each new bad image and bring the file up to date."""
        if self._bad_images.count() == self._seen:
            return
        reasons = self._bad_images.reasons()
        new = [name for name in reasons if name not in self._told]
        for number, name in enumerate(new, start=len(self._told) + 1):
            text = f"Bad image {number} of {self._bad_images.limit} allowed, left out of training: {reasons[name]}"
            self._reporter.warning(text, image=name, reason=reasons[name])
        if new:
            self._reporter.count("bad_images", len(new))
        self._told, self._seen = set(reasons), len(reasons)
        self._write(reasons)

    def _write(self, reasons: Mapping[str, str]) -> None:
        """Replace `bad-images.json`; without bad images, remove that of an earlier start."""
        if not reasons:
            self._path.unlink(missing_ok=True)
            return
        images = [{"file_name": name, "reason": reason} for name, reason in reasons.items()]
        content = {"schemaVersion": SCHEMA_VERSION, "limit": self._bad_images.limit, "images": images}
        atomic.write_json(self._path, content)

    def watch(self, batches: Iterable[T], first_step: int) -> Iterator[T]:
        """Pass on the batches of the steps from `first_step` (of the whole run) on, telling what they met."""
        for step, batch in enumerate(batches, start=first_step):
            self.tell()
            if len(self._told) != self._logged:
                self._logged = len(self._told)
                self._reporter.log_metrics(step, {METRIC: self._logged})
            yield batch
