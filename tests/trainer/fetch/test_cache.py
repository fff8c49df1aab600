"""Shelves: what the journal lists is whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from semires_trainer.fetch.cache import Entry, open_shelf, parse_journal


def never() -> bool:
    return False


def test_the_newest_line_of_a_name_counts_and_unreadable_ones_do_not() -> None:
    content = b'["a", 1, "x"]\n["a", 2, "y"]\nnonsense\n["b"]\n["c", 3, ""]\n'

    assert parse_journal(content) == {"a": Entry(size=2, etag="y"), "c": Entry(size=3, etag="")}


@pytest.mark.parametrize("with_syncfs", [True, False])
def test_what_was_put_is_found_by_the_next(with_syncfs: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not with_syncfs:
        monkeypatch.setattr("semires_trainer.fetch.cache._SYNCFS", None)
    with open_shelf(tmp_path / "images", never) as shelf:
        shelf.put("a/b.jpg", b"content", etag="e")
        pending = shelf.get("a/b.jpg")

    with open_shelf(tmp_path / "images", never) as shelf:
        assert shelf.get("a/b.jpg") == Entry(size=7, etag="e")
    assert pending is None
    assert (tmp_path / "images" / "a" / "b.jpg").read_bytes() == b"content"


def test_a_torn_line_does_not_spoil_the_next(tmp_path: Path) -> None:
    (tmp_path / ".images.journal").write_bytes(b'["a.jpg", 7, "e"]\n["b.jp')

    with open_shelf(tmp_path / "images", never) as shelf:
        shelf.put("c.jpg", b"content")

    assert parse_journal((tmp_path / ".images.journal").read_bytes()).keys() == {"a.jpg", "c.jpg"}
