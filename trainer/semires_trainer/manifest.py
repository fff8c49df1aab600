"""Reading a manifest: strict YAML (one document; no duplicate keys, anchors, NaN), then --set and config."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any, get_args

import yaml

from semires_trainer.config import SemiRESJob, parse_job
from semires_trainer.config import cluster_only_fields as cluster_only_fields
from semires_trainer.errors import ConfigError
from semires_trainer.spec.explain import did_you_mean, keys_of, models_in

MAX_BYTES = 1024 * 1024


class _StrictLoader(yaml.SafeLoader):
    """YAML 1.2's idea of a float ("5e-5" is one, as for kubectl), no dates, no anchors, no duplicate keys."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.MarkedYAMLError(None, None, "anchors and aliases are not supported", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(None, None, "a key must be a plain word", key.start_mark)
            if key.value in seen:
                problem = f'duplicate key "{key.value}", first given in line {seen[key.value]}'
                raise yaml.MarkedYAMLError(None, None, problem, key.start_mark)
            seen[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> float:
        if node.value.lower().lstrip("+-.") in {"nan", "inf"}:
            raise yaml.MarkedYAMLError(None, None, f"{node.value} is not a number", node.start_mark)
        return _WrittenFloat(node.value)


class _WrittenFloat(float):
    """Remembers how it was written, so that a message can say "5e-5" and not "5e-05"."""

    def __new__(cls, text: str) -> _WrittenFloat:
        number = super().__new__(cls, text)
        number.text = text
        return number

    text: str

    def __str__(self) -> str:
        return self.text


def _resolvers_without_numbers_and_dates() -> dict[str, list[Any]]:
    dropped = (":float", ":int", ":timestamp")
    return {
        first: [entry for entry in resolvers if not entry[0].endswith(dropped)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_StrictLoader.yaml_implicit_resolvers = _resolvers_without_numbers_and_dates()
_DECIMAL = r"(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+"
_FLOAT = re.compile(rf"^([-+]?({_DECIMAL}|\.(inf|Inf|INF))|\.(nan|NaN|NAN))$")
_INTEGER = re.compile(r"^[-+]?(0|[1-9][0-9]*)$")
_StrictLoader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
_StrictLoader.add_implicit_resolver("tag:yaml.org,2002:int", _INTEGER, list("-+0123456789"))
_StrictLoader.add_constructor("tag:yaml.org,2002:float", _StrictLoader.construct_number)


class _WordLoader(_StrictLoader):
    """Leaves every scalar a string: for --set on fields that hold strings, where a shell eats the quotes."""


_WordLoader.yaml_implicit_resolvers = {}


def _read_yaml(text: str, *, source: str, loader: type[yaml.SafeLoader] = _StrictLoader) -> Any:
    try:
        return yaml.load(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}, line {mark.line + 1}, column {mark.column + 1}" if mark else source
        problem = error.problem or error.context or "not valid YAML"
        raise ConfigError(problem, field=where, remedy=_yaml_remedy(problem)) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"not valid YAML ({error})", field=source, remedy="Correct the file") from error


def _yaml_remedy(problem: str) -> str:
    if "another document" in problem:
        return "Give one manifest per file, without ---"
    if "duplicate key" in problem:
        return "Remove one of them"
    if "anchors" in problem:
        return "Write the value out"
    return "Correct the line"


def _kind_of_place(path: str) -> tuple[list[str], Any]:
    """The keys of a --set path and the type annotation it leads to. Raises ConfigError for an unknown key."""
    keys = path.split(".")
    annotation: Any = SemiRESJob
    for index, key in enumerate(keys):
        models = models_in(annotation)
        place = ".".join(keys[:index]) or "--set"
        if not models:
            if _is_free_mapping(annotation):
                return [*keys[:index], ".".join(keys[index:])], str
            raise ConfigError(f'"{key}" leads nowhere', field=f"--set {path}", remedy=f"{place} has no keys")
        known = keys_of(models[0])
        if key not in known:
            raise ConfigError(f'unknown key "{key}"', field=f"--set {path}", remedy=did_you_mean(key, known))
        annotation = known[key]
    return keys, annotation


def _is_free_mapping(annotation: Any) -> bool:
    return getattr(annotation, "__origin__", None) is dict or any(map(_is_free_mapping, get_args(annotation)))


def _leaves(annotation: Any) -> set[Any]:
    """The plain types below an annotation; None and the marks of Annotated left out."""
    parts = [part for part in get_args(annotation) if part is not Ellipsis and part is not type(None)]
    if hasattr(annotation, "__metadata__"):
        parts = parts[:1]
    if getattr(annotation, "__origin__", None) is not None and str(annotation).startswith("typing.Literal"):
        return {type(part) for part in get_args(annotation)}
    return set().union(*map(_leaves, parts)) if parts else {annotation}


def _apply(document: dict[str, Any], path: str, text: str) -> None:
    """Set `path` to the YAML value `text`; `null` removes the key. Strings need no quotes here."""
    keys, annotation = _kind_of_place(path)
    place: Any = document
    for key in keys[:-1]:
        if place.get(key) is None:
            place[key] = {}
        place = place[key]
        if not isinstance(place, dict):
            raise ConfigError(f'"{key}" is not a mapping in the file', field=f"--set {path}", remedy="Correct the file")
    loader = _WordLoader if _leaves(annotation) == {str} else _StrictLoader
    value = None if text.strip() == "null" else _read_yaml(text, source=f"--set {path}", loader=loader)
    if value is None:
        place.pop(keys[-1], None)
    else:
        place[keys[-1]] = value


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        remedy = "Check the path" if isinstance(error, FileNotFoundError) else "Give a readable file"
        raise ConfigError(f"cannot be read ({error.strerror})", field=str(path), remedy=remedy) from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"has {len(data)} bytes", field=str(path), remedy="A manifest is at most 1 MiB")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError("is not UTF-8", field=str(path), remedy="Save it as UTF-8 text") from error


def _read_mapping(text: str, *, source: str) -> dict[str, Any]:
    document = _read_yaml(text, source=source)
    if not isinstance(document, dict):
        remedy = "Start with apiVersion, kind, metadata and spec"
        raise ConfigError("is not a mapping", field=source, remedy=remedy)
    return document


def load_manifest(path: Path | str, overrides: Iterable[tuple[str, str]] = ()) -> SemiRESJob:
    """Read and check a manifest; `overrides` are (path, value) pairs of --set, applied in order.

    Raises ConfigError of one line naming the file, the full path of the field, the value and the remedy.
    """
    file, text = Path(path), _read_text(Path(path))
    document = _read_mapping(text, source=str(file))
    given = [(key.strip(), value) for key, value in overrides]
    for key, value in given:
        _apply(document, key, value)
    try:
        return parse_job(document)
    except ConfigError as error:
        if any(f"{error.field}.".startswith(f"{key}.") for key, _ in given):
            where = f"--set {error.field}"
        else:
            where = f"{file}, line {_line_of(text, error.field)}: {error.field}"
        raise ConfigError(error.message, field=where, remedy=error.remedy) from error


def _line_of(text: str, path: str) -> int:
    """Line (from 1) of the deepest part of `path` that is in the file."""
    node: yaml.Node | None = yaml.compose(text, Loader=_StrictLoader)
    line = 1
    for part in re.findall(r"[^.\[\]]+", path):
        if isinstance(node, yaml.MappingNode):
            found = [(key, value) for key, value in node.value if key.value == part]
        elif isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
            found = [(node.value[int(part)], node.value[int(part)])]
        else:
            break
        if not found:
            break
        key, node = found[0]
        line = key.start_mark.line + 1
    return line
