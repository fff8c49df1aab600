"""Folders of clusters that run, who owns them, and what is left of those whose owner has gone."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

from testbed import go_tools
from testbed.processes import Identity, Processes, identity_of

OWNER = "owner.json"


def runs_folder() -> Path:
    """Where clusters keep their state."""
    folder = go_tools.cache_folder() / "run"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def new_run(depth: str) -> Path:
    """A folder for a cluster that ends with this process."""
    clean_leftovers()
    folder = Path(tempfile.mkdtemp(prefix=f"{depth}-", dir=runs_folder()))
    (folder / OWNER).write_text(json.dumps(asdict(identity_of(os.getpid()))))
    return folder


def clean_leftovers() -> None:
    """End the processes of clusters whose owner was killed, and remove their folders."""
    for record in runs_folder().glob(f"*/{OWNER}"):
        try:
            owner = Identity(**json.loads(record.read_text()))
        except (FileNotFoundError, json.JSONDecodeError):
            continue  # another process is at it
        if not owner.alive:
            end_run(record.parent)


def end_run(folder: Path) -> None:
    """End all processes of a run, and remove what it wrote."""
    Processes(folder).kill_all()
    shutil.rmtree(folder, ignore_errors=True)
