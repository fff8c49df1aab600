"""Specs drawn at random near the bounds of the schema: about half of them valid. The same seed gives the same specs."""

from __future__ import annotations

import random
from typing import Any

from testbed.semiresjobs import SPECS, Change, Document, Node, Path, changed, changes, generic, places

FOREIGN: tuple[Any, ...] = (None, 0, -1, 1.0, 2.5, True, "", "a", "1", "é", "\n", [], [None], [1], {}, {"a": 1})
"""What no field expects, or only some do."""

WHOLE = frozenset({"pod.affinity", "dataset.labeled", "proposals"})
"""Sections that are hardly ever valid when drawn field by field."""


class Drawer:
    """Draws specs."""

    def __init__(self, schema: Node, seed: int) -> None:
        self.schema = schema
        self.random = random.Random(seed)
        self.values: dict[str, list[Any]] = {}
        for spec in SPECS.values():
            for place in places(schema, spec):
                self.values.setdefault(generic(place.path), []).append(place.value)

    def spec(self) -> Document:
        """One spec: recombined from examples or drawn field by field, then changed up to four times."""
        drawn = self._recombined() if self.random.random() < 0.7 else self._section(self.schema, "")
        result: Document = self._thinned(drawn, self.schema, 0.1)
        for _ in range(self.random.choice((0, 1, 2, 3))):
            result = self._beside_a_bound(result, inside=True)
        for _ in range(self.random.choice((0, 0, 1))):
            result = self._beside_a_bound(result, inside=False) if self.random.random() < 0.6 else self._odd(result)
        return result

    def _recombined(self) -> Document:
        base = dict(self.random.choice(list(SPECS.values())))
        for key in self.schema["properties"]:
            if self.random.random() < 0.12 and key in self.values:
                base[key] = self.random.choice(self.values[key])
        return base

    def _thinned(self, value: Any, node: Node, share: float) -> Any:
        """Without some of the keys that may be left out."""
        if not isinstance(value, dict) or "properties" not in node:
            return value
        return {
            key: self._thinned(child, node["properties"][key], share)
            for key, child in value.items()
            if key in node.get("required", ()) or self.random.random() > share
        }

    def _section(self, node: Node, path: str) -> Document:
        """A section with its required fields and some of the others."""
        result = {}
        for key, child in node["properties"].items():
            if key in node.get("required", ()) or self.random.random() < 0.25:
                place = f"{path}.{key}" if path else key
                fields = "properties" in child and place not in WHOLE
                result[key] = self._section(child, place) if fields else self.random.choice(self.values[place])
        return result

    def _beside_a_bound(self, spec: Document, *, inside: bool) -> Document:
        """One value moved to a bound, or beyond it."""
        change = self._change(spec, inside=inside)
        return changed(spec, change.path, change.value) if change else spec

    def _change(self, spec: Document, *, inside: bool) -> Change | None:
        known = [place for place in places(self.schema, spec) if place.path and place.value not in ([], {})]
        for _ in range(10):
            place = self.random.choice(known)
            try:
                possible = [change for change in changes(place) if change.inside == inside]
            except (TypeError, AttributeError, IndexError, KeyError):
                # An earlier change left a value of another type here: another place will do.
                continue
            if possible:
                return self.random.choice(possible)
        return None

    def _odd(self, spec: Document) -> Document:
        """A key more, a key less, a null, a value of another place or type."""
        paths = [place.path for place in places(self.schema, spec) if place.path]
        path = self.random.choice(paths)
        if self.random.random() < 0.2:
            return changed(spec, (*self._section_path(paths), self.random.choice(["foo", "Epochs"])), 1)
        return changed(spec, path, self._odd_value(spec, path))

    def _section_path(self, paths: list[Path]) -> Path:
        return self.random.choice([path[:-1] for path in paths if isinstance(path[-1], str)])

    def _odd_value(self, spec: Document, path: Path) -> Any:
        kind = self.random.random()
        if kind < 0.25:
            return ...
        if kind < 0.5:
            return None
        value = next(place.value for place in places(self.schema, spec) if place.path == path)
        if isinstance(value, int) and kind < 0.75:
            return float(value)
        return self.random.choice(FOREIGN if kind < 0.9 else self.random.choice(list(self.values.values())))
