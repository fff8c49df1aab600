"""The training curves of a run as one picture, from the records of `metrics.jsonl`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semires_trainer import atomic
from semires_trainer.metrics_log import series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Records = Sequence[Mapping[str, Any]]

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
BURN_IN = "burn-in"
OIOU = "val_oiou"
LOSSES = {
    "loss": "total",
    "supervised": "supervised",
    "sam": "pseudo-labels matched by proposals",
    "pwa": "pseudo-labels weighted by pixel (PWA)",
}
SHARES = {
    "matched_share": "matched by proposals",
    "labeled_helped_share": "correction helped (labelled data)",
    "labeled_hurt_share": "correction hurt (labelled data)",
    "pseudo_foreground_share": "foreground pixels of pseudo-labels",
}
"""Metrics that are drawn, named `<stage>/<name>` in metrics.jsonl, with the words of the legend."""
MANY_VALUES = 24
"""Fewer values are drawn as they are."""
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#656d76",
    "axes.labelcolor": "#24292f",
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlesize": 11,
    "axes.grid": True,
    "grid.color": "#d8dee4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "xtick.color": "#656d76",
    "ytick.color": "#656d76",
}


def write_training_curves(records: Records, path: Path, *, title: str = "") -> None:
    """Draw loss, oIoU, shares of the refinement and learning rate over steps as PNG, atomically.

    Same records, same bytes. Metrics that were not logged leave their picture empty; oIoU is in percent,
    shares are in 0..1.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 7.2), dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        _draw(figure, records, title)
        with atomic.replace_file(path) as temporary:
            figure.savefig(temporary, format="png", metadata={"Software": None})


def _draw(figure: Figure, records: Records, title: str) -> None:
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    axes = figure.subplots(2, 2)
    _draw_losses(axes[0, 0], records)
    _draw_oiou(axes[0, 1], records)
    _draw_shares(axes[1, 0], records)
    _draw_learning_rate(axes[1, 1], records)
    last = max((int(record["step"]) for record in records), default=1)
    boundary = _burn_in_end(records, last)
    for axis in axes.flat:
        axis.set_xlabel("step")
        axis.set_xlim(0, last * 1.02)
        if not axis.lines:
            axis.text(0.5, 0.5, "nothing logged", transform=axis.transAxes, ha="center", color="#656d76")
        if boundary:
            axis.axvspan(0, boundary, color="#8c959f", alpha=0.10, linewidth=0)
            axis.annotate("burn-in", (boundary / 2, 0.985), xycoords=axis.get_xaxis_transform(), fontsize=8,
                          ha="center", va="top", color="#656d76")  # fmt: skip


def _burn_in_end(records: Records, last: int) -> int:
    """Last step of burn-in; 0 if there was none or nothing came after it."""
    prefix = f"{BURN_IN}/"
    steps = [int(record["step"]) for record in records if any(name.startswith(prefix) for name in record)]
    end = max(steps, default=0)
    return end if end < last else 0


def _of(records: Records, short: str) -> list[str]:
    """Metrics called `short` in any stage, in order of first appearance: ['burn-in/loss', 'train/loss']."""
    seen = dict.fromkeys(name for record in records for name in record)
    return [name for name in seen if name.partition("/")[2] == short]


def smooth(values: Sequence[float], weight: float) -> list[float]:
    """Exponential moving average started without bias: the first values are means of what there is."""
    total, norm, out = 0.0, 0.0, []
    for value in values:
        total = weight * total + (1 - weight) * value
        norm = weight * norm + (1 - weight)
        out.append(total / norm)
    return out


def _plot(axis: Axes, points: tuple[list[int], list[float]], *, color: str, label: str, scale: float = 1) -> None:
    """The raw values faintly and their moving average on top, over 8 values or a sixtieth of them.

    A logged value is that of one step, and a share of 4 labelled images has 5 values: unreadable without the average.
    """
    steps, values = points[0], [scale * value for value in points[1]]
    if len(values) < MANY_VALUES:
        axis.plot(steps, values, color=color, linewidth=1.6, label=label)
        return
    window = max(8, len(values) / 60)
    axis.plot(steps, values, color=color, linewidth=0.6, alpha=0.25)
    axis.plot(steps, smooth(values, 1 - 1 / window), color=color, linewidth=1.6, label=label)


def _legend(axis: Axes) -> None:
    if axis.get_legend_handles_labels()[1]:
        axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(-0.02, -0.19), ncols=2, borderaxespad=0)


def _draw_losses(axis: Axes, records: Records) -> None:
    axis.set_title("Loss")
    _plot_all(axis, records, LOSSES)
    axis.set_ylim(bottom=0)


def _draw_shares(axis: Axes, records: Records) -> None:
    axis.set_title("Pseudo-label refinement (share, %)")
    _plot_all(axis, records, SHARES, scale=100)
    axis.set_ylim(0, 100)


def _plot_all(axis: Axes, records: Records, labels: Mapping[str, str], *, scale: float = 1) -> None:
    for (short, label), color in zip(labels.items(), PALETTE, strict=False):
        for index, name in enumerate(_of(records, short)):
            shown = label if index == 0 else "_nolegend_"
            _plot(axis, series(records, name), color=color, label=shown, scale=scale)
    _legend(axis)


def _draw_oiou(axis: Axes, records: Records) -> None:
    axis.set_title("oIoU on validation (%)")
    for name in _of(records, OIOU):
        points = series(records, name)
        burn_in = name.startswith(f"{BURN_IN}/")
        color, label = (PALETTE[5], "burn-in") if burn_in else (PALETTE[1], "teacher")
        axis.plot(*points, color=color, marker="o", markersize=4, label=label)
        if burn_in and points[1]:
            axis.axhline(max(points[1]), color=color, linestyle="--", linewidth=1, label="burn-in, best")
    axis.margins(y=0.12)
    _legend(axis)


def _draw_learning_rate(axis: Axes, records: Records) -> None:
    axis.set_title("Learning rate")
    for name in _of(records, "learning_rate"):
        axis.plot(*series(records, name), color=PALETTE[0], linewidth=1.6)
    axis.set_ylim(bottom=0)
    axis.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3))
