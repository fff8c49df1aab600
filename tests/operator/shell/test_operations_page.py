"""The generated tables of docs/operations.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from semires_operator import operations_page


def test_the_page_is_up_to_date() -> None:
    assert operations_page.main(["--check"]) == 0


def test_a_page_that_is_out_of_date_is_told_and_repaired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "operations.md"
    page.write_text(operations_page.PAGE.read_text().replace("No node has room", "Some node has room"))
    monkeypatch.setattr(operations_page, "PAGE", page)

    assert operations_page.main(["--check"]) == 1
    assert "operations.md is out of date" in capsys.readouterr().err
    assert operations_page.main([]) == operations_page.main(["--check"]) == 0


def test_a_page_without_a_place_for_a_table_is_refused() -> None:
    with pytest.raises(ValueError, match="has no place for 'conditions'"):
        operations_page.filled("# Operations\n")


def test_every_series_has_its_labels_and_a_meaning() -> None:
    rows = [row.split(" | ") for row in operations_page.tables()["metrics"].splitlines()[2:]]

    assert all(re.fullmatch(r"\| `semires_(job|operator)_[a-z_]+`", row[0]) and len(row) == 4 for row in rows)
    assert {row[0]: row[2] for row in rows}["| `semires_operator_api_requests_total`"] == "`verb`, `code`"
    assert {row[0]: row[2] for row in rows}["| `semires_job_oiou_ratio`"] == "`namespace`, `name`"
