"""Which fields of a job may change, and when: rules of the CRD that compare with the stored object. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from semires_operator.cel import Rule, shown


def endpoint_rule() -> Rule:
    """Results don't move to another storage. Not having the section means the default one."""
    new, old = (f"(has({owner}.storage) ? {owner}.storage.endpoint : 'default')" for owner in ("self", "oldSelf"))
    return Rule(
        rule=f"{new} == {old}",
        problem="cannot change from {} to {}: the checkpoints of this job would be lost",
        remedy="restore it, or create a job with another name and output",
        values=(old, new),
        field=".storage",
        reason="FieldValueForbidden",
    )


def fixed_rule(name: str, node: Mapping[str, Any], *, always_there: bool) -> Rule:
    """The field `name` of a section says what is trained, and keeps its value."""
    values: tuple[str, ...] = ()
    if node["type"] in {"string", "integer", "boolean"}:
        values = tuple(_written(owner, name, node, always_there) for owner in ("oldSelf", "self"))
    return Rule(
        rule=same(name, optional=[] if always_there else [name]),
        problem=f"what is trained cannot change{' from {} to {}' if values else ''}",
        remedy="restore it, or create a job with another name and output",
        values=values,
        field=f".{name}",
        reason="FieldValueForbidden",
    )


def _written(owner: str, name: str, node: Mapping[str, Any], always_there: bool) -> str:
    """The value of a scalar field as a string in CEL."""
    text = f"{owner}.{name}"
    text = f"string({text})" if node["type"] != "string" else shown(text, max_length=node.get("maxLength", 0))
    return text if always_there else f"(has({owner}.{name}) ? {text} : 'nothing')"


def same(path: str, *, optional: Sequence[str]) -> str:
    """In CEL: the field at `path` has the value that it had, or is left out as before.

    `optional` are the paths, on the way or the field's own, that may be left out. Not `self.?a == oldSelf.?a`: the API
    server takes what is in an optional for endless.
    """
    equal = f"self.{path} == oldSelf.{path}"
    if not optional:
        return equal
    new, old = (" && ".join(f"has({owner}.{part})" for part in optional) for owner in ("self", "oldSelf"))
    return f"({new}) == ({old}) && (!({new}) || {equal})"


def while_suspended_rule(path: str, unchanged: str) -> Rule:
    """A field below `spec` keeps its value while the job runs; `unchanged` says in CEL that it does."""
    return Rule(
        rule=f"oldSelf.suspend || ({unchanged})",
        problem=f"{path} can change only while the job is suspended, for it tells how the attempt under way runs",
        remedy="set suspend: true, apply, then change it and set suspend: false",
        field=f".{path}",
        reason="FieldValueForbidden",
    )
