"""Errors a user can act on: each names what was wrong, where, and the remedy, and maps to one exit code."""

from __future__ import annotations

from typing import ClassVar


class SemiresError(Exception):
    """Base of all errors shown to users as one line, without a traceback."""

    exit_code: ClassVar[int] = 1
    reason: ClassVar[str] = "Unexpected"

    def __init__(self, message: str, *, field: str = "", remedy: str = "") -> None:
        self.message = message
        self.field = field
        self.remedy = remedy
        super().__init__(self._one_line())

    def _one_line(self) -> str:
        head = f"{self.field}: {self.message}" if self.field else self.message
        line = f"{head.rstrip('.')}. {self.remedy}" if self.remedy else head
        return " ".join(line.split())


class ConfigError(SemiresError):
    """The manifest, a command-line option or a combination of them is wrong."""

    exit_code = 2
    reason = "ConfigInvalid"


class DataError(SemiresError):
    """An annotation file, an image or a proposal file is missing, damaged or contradictory."""

    exit_code = 3
    reason = "DataInvalid"


class WeightsError(SemiresError):
    """A weights file or a checkpoint is missing, damaged, unsafe or of another architecture."""

    exit_code = 3
    reason = "WeightsInvalid"


class DivergedError(SemiresError):
    """Training produced losses that are not finite and the policy says stop."""

    exit_code = 4
    reason = "Diverged"


class StorageDenied(SemiresError):
    """A storage service refused access for good."""

    exit_code = 5
    reason = "StorageDenied"


class GpuMemoryError(SemiresError):
    """A GPU has too little memory: for the micro-batch, or for something that has none."""

    exit_code = 6
    reason = "GpuMemory"

    def __init__(
        self,
        message: str,
        *,
        field: str = "",
        remedy: str = "",
        micro_batch: int | None = None,
        micro_batch_in_use: int | None = None,
    ) -> None:
        super().__init__(message, field=field, remedy=remedy)
        self.micro_batch = micro_batch
        """The `spec.training.microBatch` to try next; None: nothing smaller exists, or it would not help."""
        self.micro_batch_in_use = micro_batch_in_use
        """Images per forward pass when memory ran out; None outside training steps."""


class HostMemoryError(SemiresError):
    """The machine has too little memory, or too little shared memory for loader processes."""

    exit_code = 1
    reason = "HostMemory"


class InfrastructureError(SemiresError):
    """Something outside the run failed: a requested GPU is not visible, a rank was lost."""

    exit_code = 150
    reason = "Infrastructure"


class RankLost(InfrastructureError):
    """A rank ended without a word: killed by somebody, or by the kernel."""

    reason = "RankLost"


class RanksHung(InfrastructureError):
    """All ranks are alive and nothing moves."""

    reason = "RanksHung"
