"""How plans, checks and counts look on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from rich.console import Console

    from semires_trainer.doctor import Check
    from semires_trainer.memory import MemoryEstimate
    from semires_trainer.plan import Plan, ProposalPlan, StageOutline

SHADES = {"OK": "green", "WARN": "yellow", "FAIL": "red"}


class _Counts(Protocol):
    @property
    def images(self) -> int: ...
    @property
    def refs(self) -> int: ...
    @property
    def expressions(self) -> int: ...


def counts_table(counts: Mapping[str, _Counts], *, title: str = "") -> Table:
    """Images, refs and expressions per part."""
    table = Table(title=title or None, title_justify="left")
    table.add_column("part")
    for name in ("images", "refs", "expressions"):
        table.add_column(name, justify="right")
    for name, found in counts.items():
        table.add_row(escape(name), f"{found.images:,}", f"{found.refs:,}", f"{found.expressions:,}")
    return table


def print_checks(out: Console, checks: Sequence[Check]) -> None:
    """One line a check, remedies below those that are not OK."""
    width = max(len(check.name) for check in checks)
    for check in checks:
        shade = SHADES[check.status]
        line = f"[{shade}]{check.status:<4}[/]  {escape(check.name):<{width}}  {escape(check.detail)}"
        out.print(line, soft_wrap=True)
        if check.remedy and check.status != "OK":
            out.print(f"{'':6}{'':{width}}  {escape(check.remedy)}", soft_wrap=True, style="dim")


def print_plan(out: Console, plan: Plan) -> None:
    """The whole plan, top to bottom in the order of a run."""
    head = (
        f"[bold]{escape(plan.job)}[/]  preset {plan.preset}, refinement {plan.strategy}, {plan.processes} process(es)"
    )
    out.print(head, soft_wrap=True)
    out.print(f"output {escape(plan.output)}, identity {plan.identity[:12]}", soft_wrap=True)
    if plan.dataset is not None:
        parts = {"labelled": plan.dataset.labeled, "unlabelled": plan.dataset.unlabeled}
        out.print(counts_table({**parts, **{f"evaluate {k}": v for k, v in plan.dataset.evaluated.items()}}))
    if plan.stages:
        out.print(stages_table(plan.stages))
    if plan.memory is not None:
        print_memory(out, plan.memory)
    if plan.proposals is not None:
        print_proposals(out, plan.proposals)
    if "checkpoint" not in plan.unknown:
        print_resume(out, plan)
    if plan.unknown:
        out.print(f"Known when the run starts, as it lies on s3://: {', '.join(plan.unknown)}", soft_wrap=True)
    for uri in plan.downloads:
        out.print(f"Fetched when the run starts: {escape(uri)}", soft_wrap=True)
    for problem in plan.problems:
        out.print(f"[red]Missing or wrong:[/] {escape(problem)}", soft_wrap=True)
    if not plan.problems:
        out.print(f"[green]Nothing {'that lies here ' if plan.unknown else ''}is missing.[/]")


def stages_table(stages: Sequence[StageOutline]) -> Table:
    """Epochs, steps and how a step is dealt to processes."""
    table = Table()
    table.add_column("stage")
    for name in ("epochs", "steps/epoch", "steps"):
        table.add_column(name, justify="right")
    table.add_column("a step: labelled + unlabelled images")
    for stage in stages:
        step = (
            f"{stage.labeled_per_step} + {stage.unlabeled_per_step} = {stage.processes} process(es) x "
            f"{stage.accumulation} micro-batch(es) x ({stage.labeled_per_micro_batch} + "
            f"{stage.unlabeled_per_micro_batch})"
        )
        numbers = (stage.epochs, stage.steps_per_epoch, stage.total_steps)
        table.add_row(stage.name, *(f"{number:,}" for number in numbers), step)
    return table


def print_memory(out: Console, memory: MemoryEstimate) -> None:
    """Parameters and the estimate with its formula."""
    trained = f"{memory.trained_parameters / 1e6:.2f} M of them trained"
    out.print(f"Parameters  {memory.parameters / 1e6:.2f} M, {trained}; the teacher has as many")
    per_sample = f"{_size(memory.activation_bytes_per_sample)} a sample x {memory.samples_per_micro_batch}"
    totals = f"{_size(memory.total_fp32_bytes)} in FP32, {_size(memory.total_bf16_bytes)} in BF16"
    out.print(f"Memory      about {totals} a process (activations {per_sample})", soft_wrap=True)
    out.print(f"            = {escape(memory.formula)}", soft_wrap=True, style="dim")


def print_proposals(out: Console, proposals: ProposalPlan) -> None:
    """What is in the store and how good it could be at best."""
    missing = proposals.images - proposals.cached
    out.print(
        f"Proposals   {proposals.generator}: {proposals.cached:,} of {proposals.images:,} images are in "
        f"{escape(proposals.folder)}, {missing:,} to make",
        soft_wrap=True,
    )
    if proposals.oracle_mean_iou is None or proposals.oracle_above_half is None:
        out.print("            oracle best-proposal IoU is known once labelled images have proposals", style="dim")
    else:
        out.print(
            f"            oracle best-proposal IoU {proposals.oracle_mean_iou:.3f}, above 0.5 for "
            f"{100 * proposals.oracle_above_half:.1f} % of {proposals.oracle_refs:,} labelled objects",
            soft_wrap=True,
        )


def print_resume(out: Console, plan: Plan) -> None:
    """Where the run goes on."""
    if plan.resume is None:
        out.print("Checkpoint  none, the run starts at the beginning")
        return
    totals = {stage.name: f" of {stage.total_steps:,}" for stage in plan.stages}
    where = f"{plan.resume.stage}, step {plan.resume.step:,}{totals.get(plan.resume.stage, '')}"
    out.print(f"Checkpoint  {escape(plan.resume.checkpoint)}: {where}", soft_wrap=True)


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
