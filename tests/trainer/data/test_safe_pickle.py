"""Pickles are read as data: what builds plain data loads, anything that could run code is refused."""

from __future__ import annotations

import copyreg
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semires_trainer.data.safe_pickle import load_plain_pickle, parse_plain_pickle
from semires_trainer.errors import DataError

RECORDS = [
    {
        "ref_id": number,
        "ann_id": 10**12 + number,
        "split": "train",
        "sent_ids": [number, -number],
        "area": number / 3,
        "sentences": [{"tokens": ["the", "café"], "raw": "The café", "sent_id": number, "sent": "the café"}],
        "odd": (None, True, False, (), {}, 2**200),
    }
    for number in range(300)
]


class Shell:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("protocol", range(6))
def test_plain_records_load_as_the_standard_library_loads_them(protocol: int) -> None:
    content = pickle.dumps(RECORDS, protocol=protocol)

    assert parse_plain_pickle(content) == pickle.loads(content) == RECORDS


def test_strings_of_python_2_are_read_as_latin_1() -> None:
    assert parse_plain_pickle(b"\x80\x02}q\x00U\x04sentq\x01U\x04caf\xe9q\x02s.") == {"sent": "café"}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda bad: bad, id="bare"),
        pytest.param(lambda bad: [{"ref_id": 1, "sentences": [bad]}], id="in-a-ref"),
        pytest.param(lambda bad: {"a": (1, [bad])}, id="in-a-tuple"),
    ],
)
def test_a_pickle_that_calls_the_shell_is_refused_and_calls_nothing(protocol: int, wrap: Any, tmp_path: Path) -> None:
    path, marker = tmp_path / "refs(unc).p", tmp_path / "called"
    path.write_bytes(pickle.dumps(wrap(Shell(marker)), protocol=protocol))

    with pytest.raises(DataError, match=r"refs\(unc\)\.p is not a pickle of plain data: opcode .* can run code"):
        load_plain_pickle(path)
    assert not marker.exists()


def _extension_pickle() -> bytes:
    copyreg.add_extension("os", "system", 240)
    try:
        return pickle.dumps(os.system, protocol=2)
    finally:
        copyreg.remove_extension("os", "system", 240)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"cos\nsystem\n.", id="GLOBAL"),
        pytest.param(b"(S'true'\nios\nsystem\n.", id="INST"),
        pytest.param(b"(cos\nsystem\nS'true'\no.", id="OBJ"),
        pytest.param(b"Psecret\n.", id="PERSID"),
        pytest.param(b"\x80\x02K\x01Q.", id="BINPERSID"),
        pytest.param(b"\x80\x04\x8c\x02os\x8c\x06system\x93.", id="STACK_GLOBAL"),
        pytest.param(b"\x80\x02\x82\xf0.", id="EXT1"),
        pytest.param(_extension_pickle().replace(b"\xf0", b"\xf1"), id="EXT1-from-copyreg"),
        pytest.param(b"\x80\x05\x97.", id="NEXT_BUFFER"),
        pytest.param(b"\x80\x05\x97\x98.", id="READONLY_BUFFER"),
        pytest.param(b"}}b.", id="BUILD"),
        pytest.param(b"\x80\x02NN\x81.", id="NEWOBJ"),
        pytest.param(pickle.dumps({1, 2}), id="set"),
        pytest.param(pickle.dumps(b"bytes", protocol=4), id="bytes"),
        pytest.param(b"r\xff\xff\xff\x7f.", id="huge-memo-index"),
        pytest.param(b"\x80\x02]" + b"." + b"cos\nsystem\n.", id="second-pickle-behind"),
        pytest.param(b"", id="empty"),
        pytest.param(pickle.dumps(RECORDS)[:-40], id="truncated"),
        pytest.param(b"PK\x03\x04 not a pickle", id="another-format"),
        pytest.param(b"]]s.", id="stack-misuse"),
        pytest.param(b"\x80\x02]q\x00}q\x01h\x00N\x75.", id="set-items-without-mark"),
    ],
)
def test_everything_but_plain_data_is_an_unpickling_error(content: bytes) -> None:
    with pytest.raises(pickle.UnpicklingError):
        parse_plain_pickle(content)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=64))
def test_random_bytes_never_raise_anything_else(content: bytes) -> None:
    try:
        parse_plain_pickle(content)
    except pickle.UnpicklingError:
        return


def test_a_missing_file_is_one_line_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"spec\.dataset\.annotations: .*absent\.p: No such file"):
        load_plain_pickle(tmp_path / "absent.p")
