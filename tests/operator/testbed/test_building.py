"""Programs built from pins, once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from testbed import go_tools, programs, requirements

BUILD = "from testbed import programs; programs.build_all([programs.PAUSE], print)"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("SEMIRES_CACHE", str(tmp_path))
    return tmp_path


def _start_building() -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(programs.__file__).parents[1])}
    return subprocess.Popen([sys.executable, "-c", BUILD], env=environment, stdout=subprocess.PIPE, text=True)


def test_a_program_is_built_once_and_what_is_left_is_told(cache: Path) -> None:
    said: list[str] = []

    programs.build_all([programs.PAUSE], said.append)
    programs.build_all([programs.PAUSE], said.append)

    assert len(said) == 2
    assert said[0] == "building pause (1 of 1; about 2 s, 2 s for all that is left)"
    assert said[1].startswith("built pause in ")
    assert os.access(programs.PAUSE.path, os.X_OK)


def test_a_second_process_waits_for_the_first(cache: Path) -> None:
    with _start_building() as one, _start_building() as other:
        outputs = [one.communicate(timeout=120)[0], other.communicate(timeout=120)[0]]

    assert [one.returncode, other.returncode] == [0, 0]
    assert all("built pause in" in output for output in outputs)
    assert sorted(path.name for path in programs.PAUSE.path.parent.iterdir()) == [".lock", "pause"]


def test_nothing_is_visible_of_a_build_that_was_killed(cache: Path) -> None:
    program = programs.PAUSE.path
    program.parent.mkdir(parents=True)
    (program.parent / f".{program.name}.partial").write_bytes(b"half of it")

    programs.PAUSE.build()

    assert program.read_bytes()[:4] == b"\x7fELF"


def test_other_pins_are_another_program(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = go_tools.folder_of("pause")
    pins = tmp_path / "pins"
    (pins / "pause").mkdir(parents=True)
    (pins / "pause" / "go.mod").write_text("module other\n")
    monkeypatch.setattr(go_tools, "PINS", pins)

    assert go_tools.folder_of("pause") != before


def test_a_build_that_fails_says_why(cache: Path) -> None:
    with pytest.raises(RuntimeError, match=r"missing could not be built: .*semires\.dev/testbed/pause/missing"):
        go_tools.build("pause", "semires.dev/testbed/pause/missing")


def test_all_programs_have_their_pins() -> None:
    parts = {program.part for program in programs.ALL}

    assert parts == {path.name for path in go_tools.PINS.iterdir()}


def test_what_the_system_lacks_is_told_as_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(requirements, "ADMIN_FOLDERS", ())

    with pytest.raises(requirements.RequirementError, match=r"apt-get install -y --no-install-recommends openssl$"):
        requirements.check("api")


def test_a_process_without_rights_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "install_line", lambda depth: "")
    monkeypatch.setattr("os.geteuid", lambda: 1000)

    with pytest.raises(requirements.RequirementError, match="run it as root"):
        requirements.check("real")
    requirements.check("fake")
