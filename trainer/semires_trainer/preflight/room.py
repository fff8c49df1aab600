"""Disk that a run takes on its node: inputs, proposals, checkpoints, and a margin. An upper bound, not a forecast."""

from __future__ import annotations

from semires_trainer.config import Resolved, Shape, checkpoint_bytes, model_bytes
from semires_trainer.inputs import input_uris

RECORD_BYTES = {"SAM": 96 << 10, "Felzenszwalb": 192 << 10, "Precomputed": 96 << 10}
"""Of the masks of one image in the store. Measured: 27 KiB for 64 masks like SAM's, 147 KiB for 780 segments."""
PACKED_MASKS = 16
"""Masks of S x S bits that the cropped masks of one image take together. Measured: 3.6, and 11 for the segments."""
MARGIN, LEAST_MARGIN_BYTES = 0.1, 1 << 30
"""Logs, events, pictures, files that are being replaced."""


def room_needed(resolved: Resolved, shape: Shape, *, input_bytes: int, train_images: int) -> int:
    """Bytes; `input_bytes` is what is fetched from storage services. What lies at a path already is not counted.

    An output that is a path holds checkpoints, and a store that is one proposals.
    """
    parts = input_bytes + hub_bytes(resolved, shape)
    if resolved.proposals.store.startswith("s3://"):
        parts += train_images * proposal_bytes(resolved)
    if resolved.output.startswith("s3://"):
        parts += checkpoints_kept(resolved) * checkpoint_bytes(resolved, shape) + 4 * model_bytes(shape)
    return parts + max(LEAST_MARGIN_BYTES, int(parts * MARGIN))


def hub_bytes(resolved: Resolved, shape: Shape) -> int:
    """At most as much as the network itself weighs, with heads that are not read."""
    is_used = any(uri.startswith("hf://") for _, uri in input_uris(resolved))
    return 2 * model_bytes(shape) if is_used else 0


def proposal_bytes(resolved: Resolved) -> int:
    """Of one image: its record in the store, and its masks at the training size."""
    generator, size = resolved.proposals.generator, resolved.model.image_size
    return RECORD_BYTES[generator] + PACKED_MASKS * size * -(-size // 8)


def checkpoints_kept(resolved: Resolved) -> int:
    """Checkpoints on the disk at once: the newest, one being written, one being uploaded, the best, milestones."""
    training = resolved.training
    epochs = (training.burn_in_epochs, training.epochs)
    milestones = sum(each // training.keep_every for each in epochs) if training.keep_every else 0
    return max(1, training.keep_last) + 3 + milestones
