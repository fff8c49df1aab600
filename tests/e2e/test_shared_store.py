"""Two jobs at once, one store of masks."""

from __future__ import annotations

import pytest
from e2e import inputs
from e2e.stories import Pair
from e2e.world import World

pytestmark = pytest.mark.timeout(1800)


def test_two_jobs_of_two_gpus_run_at_the_same_time(pair: Pair) -> None:
    (left_began, left_ended), (right_began, right_ended) = pair.intervals

    assert left_began < right_ended
    assert right_began < left_ended


def test_both_have_used_one_store_with_the_masks_of_all_images(world: World, pair: Pair) -> None:
    store = world.store("left", pair.store)

    assert len(list(world.path(pair.store).iterdir())) == 1
    assert store.missing(world.picture_digests()) == []


@pytest.mark.parametrize("name", ["left", "right"])
def test_each_counts_the_masks_of_all_images(world: World, pair: Pair, name: str) -> None:
    (told,) = [record for record in world.log(name, 1) if str(record.get("message", "")).startswith("Proposals of")]

    assert told["images"] == told["present"] + told["new"] == inputs.IMAGES
