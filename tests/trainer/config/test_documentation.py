"""The schema documents itself, the presets cover what they claim, the generated pages are up to date."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from semires_trainer.config import HYPERPARAMETERS, SemiRESJob, json_schema
from semires_trainer.presets import FIXED_SOURCES
from semires_trainer.reference_docs import all_rows, main, pages
from semires_trainer.spec.explain import keys_of, models_in

ROOT = Path(__file__).parents[3]


def default_at(path: str) -> Any:
    """The schema default of the field at a path below `spec`."""
    model: Any = SemiRESJob
    for key in ["spec", *path.split(".")[:-1]]:
        model = models_in(keys_of(model)[key])[0]
    return next(info for info in model.model_fields.values() if info.alias == path.split(".")[-1]).default


@pytest.mark.parametrize("name", ["manifest.md", "hyperparameters.md"])
def test_a_generated_page_is_up_to_date(name: str) -> None:
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == pages()[name], "run `make generate`"


def test_every_field_has_a_description() -> None:
    assert [row.path for row in all_rows() if not row.description] == []


@pytest.mark.parametrize("path", [row.path for row in HYPERPARAMETERS])
def test_a_field_of_the_presets_has_no_default_of_its_own(path: str) -> None:
    assert default_at(path) is None


@pytest.mark.parametrize("path", sorted(FIXED_SOURCES))
def test_a_documented_hyperparameter_is_a_field(path: str) -> None:
    assert default_at(path) is not ...


def test_every_hyperparameter_names_its_source() -> None:
    assert all(row.source for row in HYPERPARAMETERS)
    assert len({row.path for row in HYPERPARAMETERS}) == len(HYPERPARAMETERS)


def test_the_schema_tells_ranges_and_presets_in_words() -> None:
    fields = json_schema()["$defs"]["Training"]["properties"]

    assert fields["emaDecay"]["description"].endswith(
        'Decimal in [0, 1), in quotes. Default by preset: Paper "0.996", OfficialCPI "0.9996", OfficialIOM "0.9996".'
    )
    assert "x-semires-range" not in str(json_schema())


def test_check_fails_and_names_what_is_out_of_date(tmp_path: Path) -> None:
    runner = CliRunner()

    before = runner.invoke(main, ["--check", "--docs", str(tmp_path)])
    written = runner.invoke(main, ["--docs", str(tmp_path)])
    after = runner.invoke(main, ["--check", "--docs", str(tmp_path)])

    assert (before.exit_code, written.exit_code, after.exit_code) == (1, 0, 0)
    assert "manifest.md" in before.output
    assert "make generate" in before.output
