"""Stands for the ranks: leaves checkpoints and models in a work folder. And looks at an output without our code."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from pathlib import Path
from typing import Any

from semires_trainer.checkpoint_folders import manifest_text

STATE: dict[str, Any] = {
    "schemaVersion": 1,
    "identity": "0" * 64,
    "epoch": 0,
    "steps_per_epoch": 1,
    "stage": "train",
    "step": 0,
    "best_oiou": None,
    "best_step": None,
    "evaluated_step": None,
    "oiou": None,
    "epochs_without_gain": 0,
    "skipped_steps": [],
    "finished": False,
}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_checkpoint(
    work: Path, number: int, *, content: int = 0, size: int = 1000, oiou: float | None = None, **state: Any
) -> Path:
    """A checkpoint like those of the ranks, put in place at once; `content` changes its bytes."""
    source = random.Random(f"{number} {content}")
    files = {f"{name}.safetensors": source.randbytes(size) for name in ("student", "optimizer")}
    evaluated = {"evaluated_step": number, "oiou": oiou} if oiou is not None else {}
    files["state.json"] = json.dumps({**STATE, "step": number, **evaluated, **state}).encode()
    manifest = {name: {"sha256": sha256(data), "bytes": len(data)} for name, data in files.items()}
    files["manifest.json"] = manifest_text(manifest).encode()
    return _put(work / "checkpoints" / f"step-{number:08d}", files)


def write_model(work: Path, name: str, *, content: int = 0, size: int = 500) -> Path:
    """A model folder like those of the ranks."""
    files = {"model.safetensors": random.Random(f"{name} {content}").randbytes(size), "vocab.txt": b"red\ncircle\n"}
    files["model.json"] = json.dumps({"sha256": {name: sha256(data) for name, data in files.items()}}).encode()
    return _put(work / name, files)


def _put(folder: Path, files: dict[str, bytes]) -> Path:
    new = folder.with_name(f".{folder.name}.tmp")
    new.mkdir(parents=True)
    for name, data in files.items():
        (new / name).write_bytes(data)
    if folder.exists():
        aside = folder.with_name(f"{folder.name}.replaced")
        folder.rename(aside)
        new.rename(folder)
        shutil.rmtree(aside)
    else:
        new.rename(folder)
    return folder


def prune(work: Path, number: int) -> None:
    """Delete a checkpoint as the ranks do."""
    shutil.rmtree(work / "checkpoints" / f"step-{number:08d}")


def flip_bit(path: Path) -> None:
    """Damage a file, keeping its size."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def ledger(folder: Path) -> list[dict[str, Any]]:
    """The checkpoints that an output lists; none without a ledger."""
    path = folder / "checkpoints.json"
    entries: list[dict[str, Any]] = json.loads(path.read_bytes())["checkpoints"] if path.exists() else []
    return entries


def numbers(folder: Path) -> list[int]:
    """Steps of the checkpoints that an output lists."""
    return [entry["number"] for entry in ledger(folder)]


def faults_of(folder: Path, output: str) -> list[str]:
    """What the ledger of an output promises and the output does not hold."""

    def place(uri: str) -> Path:
        assert uri.startswith(f"{output}/")
        return folder / uri.removeprefix(f"{output}/")

    found = []
    for entry in ledger(folder):
        files = {"manifest.json": entry["sha256"]}
        manifest = place(entry["uri"]) / "manifest.json"
        if manifest.is_file():
            files |= {name: wanted["sha256"] for name, wanted in json.loads(manifest.read_bytes()).items()}
        promised = {place(entry["uri"]) / name: digest for name, digest in files.items()}
        for uri in entry["models"].values():
            listed = place(uri) / "model.json"
            promised |= {place(uri) / name: digest for name, digest in _listed(listed).items()}
        found += [str(path) for path, digest in promised.items() if not _is(path, digest)]
    return found


def _listed(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {path.name: "that this file is there"}
    listed: dict[str, str] = json.loads(path.read_bytes())["sha256"]
    return listed


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path.read_bytes()) == digest


def names(folder: Path) -> set[str]:
    """Folders of an output that hold something, as `checkpoints/step-...`."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path.parent) for path in files if len(path.parts) > 2}
