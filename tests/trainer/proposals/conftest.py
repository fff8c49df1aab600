from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from semires_trainer.proposals.store import ProposalStore, StoreKey

VECTORS = Path(__file__).parents[2] / "data" / "vectors" / "refine"


class ProposalFiles:
    """The vectors `proposal_files.*`: official files of five images, the masks, and those at 480 x 480."""

    def __init__(self) -> None:
        self.images: list[dict[str, Any]] = json.loads((VECTORS / "proposal_files.json").read_text())["images"]
        self._arrays = np.load(VECTORS / "proposal_files.npz", allow_pickle=False)

    def size(self, index: int) -> tuple[int, int]:
        return self.images[index]["height"], self.images[index]["width"]

    def masks(self, index: int) -> NDArray[np.bool_]:
        height, width = self.size(index)
        return self._unpacked(f"masks_{index}", height, width)

    def at_480(self, index: int) -> NDArray[np.bool_]:
        return self._unpacked(f"proposals480_{index}", 480, 480)

    def _unpacked(self, name: str, height: int, width: int) -> NDArray[np.bool_]:
        bits = np.unpackbits(self._arrays[name], axis=1)[:, : height * width]
        return bits.reshape(-1, height, width).astype(bool)


@pytest.fixture(scope="session")
def proposal_files() -> ProposalFiles:
    return ProposalFiles()


@pytest.fixture
def key() -> StoreKey:
    return StoreKey(generator="Test", parameters={"scale": 1.5, "levels": [1, 2]})


@pytest.fixture
def store(tmp_path: Path, key: StoreKey) -> ProposalStore:
    return ProposalStore(tmp_path / "store", key)


@pytest.fixture
def name_of() -> Callable[[int], str]:
    """A sha256 for the n-th image."""
    return lambda number: hashlib.sha256(str(number).encode()).hexdigest()


@pytest.fixture
def image_bytes() -> Callable[..., bytes]:
    """A PNG with a bright rectangle on a dark ground; another number, another place."""

    def draw(number: int, height: int = 40, width: int = 56) -> bytes:
        pixels = np.full((height, width, 3), 30, np.uint8)
        pixels[8:24, 4 + number : 24 + number] = 220
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG")
        return buffer.getvalue()

    return draw
