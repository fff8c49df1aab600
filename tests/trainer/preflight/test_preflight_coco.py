"""A data set of RefCOCO's size beside a listing of COCO train2014's size, on one CPU."""

from __future__ import annotations

import json
import os
import pickle
import random
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

IMAGES, USED, REFS, OBJECTS = 82_783, 19_994, 50_000, 196_771
"""Of train2014; of RefCOCO: images, referred objects, objects in instances.json."""


def name_of(number: int) -> str:
    return f"COCO_train2014_{number:012}.jpg"


def write_annotations(folder: Path) -> None:
    """Files of the size and the structure of RefCOCO's."""
    draw = random.Random(0)
    outlines = [[round(draw.uniform(1, 400), 2) for _ in range(50)] for _ in range(64)]
    objects = [
        {
            **{"id": number, "image_id": number % USED, "category_id": 1, "iscrowd": 0, "area": 1234.5},
            **{"bbox": [1.0, 2.0, 30.0, 40.0], "segmentation": [outlines[number % len(outlines)]]},
        }
        for number in range(OBJECTS)
    ]
    images = [{"id": n, "file_name": name_of(n), "height": 480, "width": 640} for n in range(USED)]
    document = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "box"}]}
    folder.mkdir(parents=True)
    (folder / "instances.json").write_text(json.dumps(document))
    refs = [
        {
            **{"ref_id": n, "ann_id": n, "image_id": n % USED, "category_id": 1, "sent_ids": [3 * n]},
            "split": ("val", "testA", "testB")[n % 3] if n % USED >= 16_994 else "train",
            "file_name": name_of(n % USED),
            "sentences": [
                {"tokens": ["the", "box"], "raw": f"The box {k}", "sent_id": 3 * n + k, "sent": f"the box {k}"}
                for k in range(3)
            ],
        }
        for n in range(REFS)
    ]
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))


def peak_of(process: subprocess.Popen[str]) -> float:
    """Largest resident set until the process ends, MiB; `ru_maxrss` would tell that of the test it was forked from."""
    peak, status = 0, Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        peak = max(peak, int(found[1])) if found else peak
        time.sleep(0.2)
    return peak / 1024


@pytest.mark.long
def test_coco_takes_seconds_and_little_memory(scene: Any, server: Any, tmp_path: Path) -> None:
    folder = Path(server.folder) / "buckets" / f"{scene.uri.removeprefix('s3://')}/train2014"
    folder.mkdir(parents=True)
    for number in range(IMAGES):
        (folder / name_of(number)).touch()
    write_annotations(tmp_path / "refcoco")
    for name in ("instances.json", "refs(unc).p"):
        scene.put(f"coco/{name}", (tmp_path / "refcoco" / name).read_bytes())
    scene.set("dataset.annotations", f"{scene.uri}/coco")
    scene.set("dataset.images", f"{scene.uri}/train2014")
    scene.set("dataset.labeled.percent", "1")
    scene.set("dataset.evaluate", ["val", "testA", "testB"])
    scene.set("preflight.deadlineSeconds", 600)

    began, before = time.monotonic(), os.times()
    with scene.start() as process:
        memory = peak_of(process)
    seconds, after = time.monotonic() - began, os.times()
    processor = after.children_user + after.children_system - before.children_user - before.children_system

    outcome = json.loads((scene.folder / "termination-log").read_bytes())
    print(f"\n{seconds:.1f} s, {processor:.1f} s of the processor, {memory:.0f} MiB")  # noqa: T201  # the figures of the docs
    assert process.returncode == 0, outcome
    assert (outcome["preflight"]["images"], outcome["preflight"]["labeled"]) == (16_994, 169)
    assert memory < 1024
