"""The CRD's rules in CEL, with the places where they stand and the words that they speak."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from testbed.verdicts import Answer, ApiServer, Cause


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleAt:
    """One rule."""

    path: str
    """Of its node in the schema, such as "spec.pod.env[]"; empty for the root."""
    number: int
    """Of the rule in that node."""
    entry: dict[str, str]
    between_fields: bool
    """Whether it belongs to a section, and not to a single value."""

    def __str__(self) -> str:
        return f"{self.path}#{self.number}"

    @property
    def is_transition(self) -> bool:
        """Whether it compares with what was before."""
        return "oldSelf" in self.entry["rule"]

    @property
    def field(self) -> str:
        """The field it tells of."""
        return f"{self.path}{self.entry.get('fieldPath', '')}".removeprefix(".")

    def says(self, cause: Cause) -> bool:
        """Whether a refusal is this rule's."""
        words = "(.|\n)*".join(map(re.escape, self.entry["message"].split("…")))
        return generic_field(cause.field) == self.field and bool(re.search(f"{words}$", cause.message))


def generic_field(path: str) -> str:
    """ "spec.pod.env[3].name" -> "spec.pod.env[].name"; keys of maps go too."""
    return re.sub(r"\[[^]]*\]", "[]", path)


def rules_of(node: dict[str, Any], path: str = "") -> Iterator[RuleAt]:
    """Every rule at and below `node`."""
    for number, entry in enumerate(node.get("x-kubernetes-validations", ())):
        yield RuleAt(path=path, number=number, entry=entry, between_fields="properties" in node)
    for key, child in node.get("properties", {}).items():
        yield from rules_of(child, f"{path}.{key}" if path else key)
    for key in ("items", "additionalProperties"):
        if key in node:
            yield from rules_of(node[key], f"{path}[]")


def node_at(node: dict[str, Any], path: str) -> dict[str, Any]:
    """The node of the schema at a path of `rules_of`."""
    for part in filter(None, re.split(r"\.|(?=\[\])", path)):
        node = (node.get("items") or node["additionalProperties"]) if part == "[]" else node["properties"][part]
    return node


def schema_of(crd: dict[str, Any]) -> dict[str, Any]:
    """The schema of a CRD's only version."""
    schema: dict[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def without(crd: dict[str, Any], rules: Sequence[RuleAt]) -> dict[str, Any]:
    """The CRD without these rules."""
    result = copy.deepcopy(crd)
    for rule in rules:
        entries = node_at(schema_of(result), rule.path)["x-kubernetes-validations"]
        del entries[next(place for place, entry in enumerate(entries) if entry == rule.entry)]
    return result


def needless(cases: Sequence[tuple[RuleAt, Callable[[], Answer]]], crd: dict[str, Any], api: ApiServer) -> list[str]:
    """Rules without which their case is still refused. Each case was refused by its rule alone.

    A dozen are dropped at a time, for the API server takes seconds to change over. The CRD stays without the last.
    """
    found = []
    for start in range(0, len(cases), 12):
        batch = cases[start : start + 12]
        api.install(without(crd, [rule for rule, _ in batch]))
        deadline = time.monotonic() + 30
        for rule, judge in batch:
            while not (accepted := judge().accepted) and time.monotonic() < deadline:
                time.sleep(0.1)
            if not accepted:
                found.append(str(rule))
    return found
