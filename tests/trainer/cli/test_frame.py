"""Help for everything, quickly; and one red line, not a traceback, for what a user can mend."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from semires_trainer import __version__
from semires_trainer.cli import main
from semires_trainer.commands.frame import Program, parse_override
from semires_trainer.errors import ConfigError, DataError, DivergedError, GpuMemoryError, InfrastructureError
from semires_trainer.signals import StopRequested


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        else:
            yield (*path, name)


COMMANDS = [pytest.param(path, id="-".join(path)) for path in leaves(main)]


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_explains_itself_with_an_example(semires, path: tuple[str, ...]) -> None:
    result = semires(*path, "--help")

    assert result.exit_code == 0
    assert "Example" in result.output
    assert f"semires {' '.join(path)} " in result.output


def test_the_commands_of_the_design_are_there() -> None:
    assert set(main.commands) >= {
        *("run", "train", "propose", "evaluate", "predict", "convert", "data", "plan", "doctor")
    }


def test_the_version_is_told(semires) -> None:
    assert semires("--version").output.strip() == f"semires, version {__version__}"


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys; from semires_trainer.cli import main; main(['run', '--help'], standalone_mode=False);"
        "print(sorted({'torch', 'numpy', 'pydantic', 'rich', 'transformers'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=paths())

    assert answer.stdout.splitlines()[-1] == "[]"


def test_the_package_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "semires_trainer", "run", "absent.yaml"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, env=paths())

    assert answer.returncode == 2
    assert answer.stderr.startswith("Error: absent.yaml: ")


def paths() -> dict[str, str]:
    return {"PYTHONPATH": str(Path(sys.modules["semires_trainer"].__file__ or "").parents[1])}


def program_raising(error: BaseException) -> Program:
    group = Program(params=[click.Option(["--debug"], is_flag=True)])

    @group.command()
    def fail() -> None:
        raise error

    return group


@pytest.mark.parametrize(
    ("error", "code"),
    [
        pytest.param(ConfigError("x"), 2, id="configuration"),
        pytest.param(DataError("x"), 3, id="data"),
        pytest.param(DivergedError("x"), 4, id="diverged"),
        pytest.param(GpuMemoryError("x"), 6, id="gpu-memory"),
        pytest.param(InfrastructureError("x"), 150, id="infrastructure"),
    ],
)
def test_errors_of_users_are_one_line_and_their_exit_code(error: Exception, code: int) -> None:
    result = CliRunner().invoke(program_raising(error), ["fail"])

    assert result.exit_code == code
    assert result.stderr == "Error: x\n"


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        pytest.param(["--debug", "fail"], {}, id="option"),
        pytest.param(["fail"], {"SEMIRES_DEBUG": "1"}, id="environment"),
    ],
)
def test_a_traceback_comes_when_asked_for(arguments: list[str], environment: dict[str, str]) -> None:
    result = CliRunner(env=environment).invoke(program_raising(ConfigError("x")), arguments)

    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert result.stderr.endswith("Error: x\n")


def test_what_nobody_expected_shows_its_traceback_and_exits_with_1() -> None:
    result = CliRunner().invoke(program_raising(ZeroDivisionError("oh")), ["fail"])

    assert result.exit_code == 1
    assert "ZeroDivisionError: oh" in result.stderr


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        pytest.param(KeyboardInterrupt(), 130, "Interrupted.", id="second-ctrl-c"),
        pytest.param(StopRequested(130, "It is in x."), 130, "Stopped on request. It is in x.", id="ctrl-c"),
        pytest.param(StopRequested(143, "It is in x."), 143, "Stopped on request. It is in x.", id="sigterm"),
    ],
)
def test_a_stop_on_request_is_no_error(error: BaseException, code: int, text: str) -> None:
    result = CliRunner().invoke(program_raising(error), ["fail"])

    assert (result.exit_code, result.stderr) == (code, f"{text}\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("training.epochs=2", ("spec.training.epochs", "2"), id="below-spec"),
        pytest.param("spec.training.epochs = 2", ("spec.training.epochs", " 2"), id="full-path"),
        pytest.param("metadata.name=a=b", ("metadata.name", "a=b"), id="only-the-first-sign-counts"),
    ],
)
def test_overrides_may_leave_out_spec(text: str, expected: tuple[str, str]) -> None:
    assert parse_override(text) == expected
