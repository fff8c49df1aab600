"""Read a pickle of plain data without running any of it.

REFER ships its refs as pickles, and a pickle is a program: `pickle.load` runs whatever it names. There are
two independent walls: before anything is loaded every opcode is checked against a list of those that build
plain data, and the unpickler itself refuses to look up names or persistent ids. What passes holds list,
dict, tuple, str, int, float, bool and None.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from semires_trainer.errors import DataError

Plain: TypeAlias = "list[Plain] | dict[Any, Plain] | tuple[Plain, ...] | str | int | float | bool | None"

MAX_FILE_BYTES = 1 << 30
"""Largest file that is read; REFER's largest is below 100 MB."""

_PLAIN = """
    PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4
    FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8
    EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
    PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET
"""
_DATA_OPCODES = frozenset(_PLAIN.split())
_MEMO_OPCODES = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})


class _RefusingUnpickler(pickle.Unpickler):
    """Second wall: even an opcode that slipped through can't reach code."""

    def find_class(self, module_name: str, global_name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError("it holds a persistent id")


def load_plain_pickle(path: Path) -> Plain:
    """Load the plain data in `path`; DataError if it is missing, too large, damaged or more than data."""
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise DataError(f"{path} has {size} bytes, more than {MAX_FILE_BYTES}", remedy="Is it REFER's?")
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}", field="spec.dataset.annotations") from error
    try:
        return parse_plain_pickle(content)
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path} is not a pickle of plain data: {error}",
            field="spec.dataset.annotations",
            remedy="Nothing of it was executed; get the file from a source you trust.",
        ) from error


def parse_plain_pickle(content: bytes) -> Plain:
    """Build the plain data a pickle describes; `pickle.UnpicklingError` for anything else.

    Byte strings of Python 2 become text as latin-1, which never fails.
    """
    try:
        _check_opcodes(content)
        value: Plain = _RefusingUnpickler(io.BytesIO(content), encoding="latin1").load()
    except pickle.UnpicklingError:
        raise
    except (ValueError, TypeError, EOFError, IndexError, KeyError, AttributeError, OverflowError) as error:
        raise pickle.UnpicklingError(f"it is damaged ({error})") from error
    except (MemoryError, RecursionError) as error:
        raise pickle.UnpicklingError("it is too large or too deeply nested") from error
    return value


def _check_opcodes(content: bytes) -> None:
    """Refuse the first opcode that does more than build plain data, and bytes after the end.

    The unpickler allocates as many memo slots as the highest one named; data never needs more than its bytes.
    """
    end = 0
    for opcode, argument, position in pickletools.genops(content):
        if opcode.name not in _DATA_OPCODES:
            raise pickle.UnpicklingError(f"opcode {opcode.name} at byte {position} can run code")
        if opcode.name in _MEMO_OPCODES and int(argument or 0) > len(content):
            raise pickle.UnpicklingError(f"{opcode.name} at byte {position} reserves {argument} memo slots")
        end = (position or 0) + 1
    if end != len(content):
        raise pickle.UnpicklingError(f"{len(content) - end} bytes follow its end")
