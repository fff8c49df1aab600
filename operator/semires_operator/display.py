"""Figures as people read them: what the printer columns show, and numbers in messages. Pure."""

from __future__ import annotations

from semires_operator.status import Display, Progress, Score, Status
from semires_trainer.config import Spec, resolve_refinement

FINAL_MODEL, NATIVE_SIZE = "teacher", "original"


def duration(seconds: float) -> str:
    """The two greatest units: 45s, 12m30s, 5h02m, 3d04h."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02}h"
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


def headline(results: tuple[Score, ...]) -> Score | None:
    """The score that stands for the job: the final model on the first split, at the size it is trained at."""
    final = [score for score in results if score.model == FINAL_MODEL]
    return next((score for score in final if score.size != NATIVE_SIZE), final[0] if final else None)


def display_of(status: Status, spec: Spec | None) -> Display:
    """The columns of a status."""
    progress = status.progress or Progress()
    remaining = progress.estimated_remaining_seconds
    best = headline(status.results)
    evaluated = next((metric.value for metric in progress.metrics if metric.name == "oIoU"), "")
    known = status.display or Display()
    return Display(
        epoch=f"{progress.epoch}/{progress.epochs}" if progress.epoch is not None and progress.epochs else "",
        progress=f"{progress.progress_percentage}%{'?' if progress.stale else ''}" if status.progress else "",
        eta=duration(remaining) if remaining is not None and status.phase == "Running" else "",
        overall_iou=_percent(best.overall_iou if best else evaluated),
        labeled=_labeled(spec) if spec else known.labeled,
        refine=resolve_refinement(spec.refinement, spec.training.preset).strategy if spec else known.refine,
    )


def _percent(decimal: str) -> str:
    """Two digits; empty for what is no percentage: a pod may have told it."""
    return f"{float(decimal):.2f}" if decimal and 0 <= float(decimal) <= 100 else ""


def _labeled(spec: Spec) -> str:
    labeled = spec.dataset.labeled
    if labeled.percent is not None:
        return f"{labeled.percent}%"
    return str(len(labeled.image_ids)) if labeled.image_ids else "by file"
