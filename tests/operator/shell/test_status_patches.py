"""The merge patch of a status holds what differs, and nothing else."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semires_operator.reconcile import merge_patch_of

VALUES = st.recursive(
    st.integers(0, 3) | st.text("ab", max_size=2) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
STATUS = st.dictionaries(st.sampled_from("abcd"), VALUES, max_size=4)


def applied(old: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    result = copy.deepcopy(old) if isinstance(old, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = applied(result.get(name), value)
    return result


@given(old=STATUS, new=STATUS)
def test_the_patch_makes_the_new_of_the_old(old, new):
    assert applied(old, merge_patch_of(old, new)) == new


@given(status=STATUS)
def test_no_difference_is_no_patch(status):
    assert merge_patch_of(status, copy.deepcopy(status)) == {}


@pytest.mark.parametrize(
    ("old", "new", "patch"),
    [
        pytest.param({"a": 1, "b": 2}, {"a": 1, "b": 3}, {"b": 3}, id="changed"),
        pytest.param({"a": 1}, {}, {"a": None}, id="removed"),
        pytest.param({"p": {"x": 1, "y": 2}}, {"p": {"x": 1}}, {"p": {"y": None}}, id="removed-inside"),
        pytest.param({"l": [1, 2]}, {"l": [1]}, {"l": [1]}, id="lists-are-whole"),
    ],
)
def test_only_what_differs_is_in_the_patch(old, new, patch):
    assert merge_patch_of(old, new) == patch
