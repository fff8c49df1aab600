"""Batches by worker processes, with errors that arrive as they were raised."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Any

from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from semires_trainer.data.datasets import Sample, StackProposals, collate
from semires_trainer.errors import InfrastructureError, SemiresError


def load_batches(
    dataset: TorchDataset[Sample],
    batches: Iterable[list[Any]],
    *,
    workers: int = 0,
    pin_memory: bool = False,
    prefetch: int = 4,
    stack_proposals: StackProposals = list,
) -> Iterator[dict[str, Any]]:
    """Yield collated batches in the order of `batches` (lists of addresses), whatever the number of workers.

    `prefetch` is the number of batches each worker prepares ahead. An error of a sample is raised when its
    batch's turn comes: as the one line it is, not wrapped into a worker's traceback.
    """
    loader: DataLoader[Sample] = DataLoader(
        _Guarded(dataset),
        batch_sampler=batches,
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        pin_memory=pin_memory,
        collate_fn=functools.partial(_collate_or_error, stack_proposals=stack_proposals),
    )
    for batch in _told(iter(loader)):
        if isinstance(batch, SemiresError):
            raise batch
        yield batch


def _told(batches: Iterator[Any]) -> Iterator[Any]:
    """`batches`; a connection to a loader process that breaks means that it is gone."""
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (ConnectionError, EOFError) as error:
            raise InfrastructureError(
                f"a loader process was lost: its connection broke ({type(error).__name__})",
                remedy="If memory ran out: more memory, or fewer spec.training.workers; start again to go on",
            ) from error
        yield batch


class _Guarded(TorchDataset[Any]):
    """Returns a user's error instead of raising it: torch would wrap it into a worker's traceback."""

    def __init__(self, dataset: TorchDataset[Sample]) -> None:
        self.dataset = dataset

    def __getitem__(self, address: Any) -> Sample | SemiresError:
        try:
            return self.dataset[address]
        except SemiresError as error:
            return error


def _collate_or_error(
    samples: list[Sample | SemiresError], *, stack_proposals: StackProposals
) -> dict[str, Any] | SemiresError:
    whole = []
    for sample in samples:
        if isinstance(sample, SemiresError):
            return sample
        whole.append(sample)
    return collate(whole, stack_proposals=stack_proposals)
