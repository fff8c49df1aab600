"""Building blocks of the manifest: the base model and the validated scalar types.

Numbers that are not whole are decimal strings ("0.996"), because YAML and JSON tools round floats. They are
checked as the floats that `resolve` makes of them.

Every check here has a twin in the API server: the JSON Schema of a type carries what the CRD needs for it, under
the keys of `MARKERS`. Patterns are therefore written in what Python, Rust and RE2 have in common.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.alias_generators import to_camel, to_snake
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

DECIMAL_PATTERN = r"^(0|[1-9][0-9]{0,8})(\.[0-9]{1,12})?([eE]-?[0-9]{1,2})?$"
LONGEST_DECIMAL = 26
"""Characters that the pattern allows."""
RANGE_KEY = "x-semires-range"
"""JSON Schema key under which a decimal carries its range until `config.json_schema` moves it into the
description."""
FORM_KEY = "x-semires-form"
"""JSON Schema key for what a pattern means, in words."""
SCHEMES_KEY = "x-semires-schemes"
"""JSON Schema key for the schemes that a URI may have."""
UNIQUE_KEY = "x-semires-unique"
"""JSON Schema key of a list in which nothing may occur twice: {"keys": [...], "ordered": true}."""
MARKERS = frozenset({RANGE_KEY, FORM_KEY, SCHEMES_KEY, UNIQUE_KEY})


class Section(BaseModel):
    """Base of every part of the manifest: immutable, camelCase in YAML, unknown keys refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        use_attribute_docstrings=True,
        validate_default=True,
        protected_namespaces=(),
    )


def contradiction(field: str, problem: str, remedy: str) -> PydanticCustomError:
    """An error of a model validator that belongs to one field, given by its path below the model
    ("labeled.percent")."""
    context = {"field": field, "problem": problem, "remedy": remedy}
    return PydanticCustomError("contradiction", "{problem}", context)


def _quote_numbers(value: Any) -> Any:
    if isinstance(value, bool | int | float):
        written = str(value).lower() if isinstance(value, bool) else str(value)
        remedy = f'write it in quotes: "{written}"'
        raise PydanticCustomError(
            "unquoted", "{problem}", {"problem": f"expected a string, got {written}", "remedy": remedy}
        )
    return value


@dataclass(frozen=True, kw_only=True, slots=True)
class DecimalText:
    """Annotation for a string holding a decimal number within bounds; the bounds are decimal strings
    themselves."""

    ge: str | None = None
    gt: str | None = None
    le: str | None = None
    lt: str | None = None

    @property
    def interval(self) -> str:
        """The range in mathematical notation, e.g. "(0, 100]"."""
        low = f"[{self.ge}" if self.ge is not None else f"({self.gt}"
        high = f"{self.le}]" if self.le is not None else f"{self.lt or 'infinity'})"
        return f"{low}, {high}"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return _checked_string(self._within, max_length=LONGEST_DECIMAL)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "pattern": DECIMAL_PATTERN, "maxLength": LONGEST_DECIMAL, RANGE_KEY: self.interval}

    def _within(self, text: str) -> str:
        if not re.fullmatch(DECIMAL_PATTERN, text):
            context = {
                "problem": f'"{text}" is not a decimal number',
                "remedy": f'write one in {self.interval}, such as "0.5" or "1e-3"',
            }
            raise PydanticCustomError("form", "{problem}", context)
        value = float(text)
        inside = (
            (self.ge is None or value >= float(self.ge))
            and (self.gt is None or value > float(self.gt))
            and (self.le is None or value <= float(self.le))
            and (self.lt is None or value < float(self.lt))
        )
        if not inside:
            context = {
                "problem": f'"{text}" is out of range',
                "remedy": f"choose a number in {self.interval}",
            }
            raise PydanticCustomError("out_of_range", "{problem}", context)
        return text


def holds_decimals(annotation: object) -> bool:
    """Whether a field or type annotation is a decimal string, optional or in a tuple."""
    if isinstance(annotation, FieldInfo):
        return any(map(holds_decimals, [annotation.annotation, *annotation.metadata]))
    return isinstance(annotation, DecimalText) or any(map(holds_decimals, get_args(annotation)))


BUCKET_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]*(/|$)"
"""What follows s3:// or hf://, with its beginning."""
VISIBLE_PATTERN = r"^[^\x00-\x1f]*[^\x00-\x20][^\x00-\x1f]*$"
"""No control characters, and not only spaces."""


def _check_uri(text: str, schemes: tuple[str, ...]) -> str:
    scheme, separator, rest = text.partition("://")
    problem, remedy = "", ""
    if not re.fullmatch(VISIBLE_PATTERN, text):
        problem, remedy = "is empty or holds control characters", "give a path or a URI"
    elif separator and scheme not in schemes:
        problem = f'"{scheme}://" is not supported'
        remedy = "use a path or " + ", ".join(f"{name}://" for name in schemes)
    elif separator and scheme != "file" and not re.match(BUCKET_PATTERN, rest):
        problem = f'"{text}" has no valid bucket or repository after {scheme}://'
        remedy = f"write {scheme}://NAME/PATH without credentials or a port"
    elif separator and scheme == "file" and not rest.startswith("/"):
        problem, remedy = f'"{text}" is not absolute', "write file:///absolute/path or a plain path"
    if problem:
        raise PydanticCustomError("uri", "{problem}", {"problem": problem, "remedy": remedy})
    return text


@dataclass(frozen=True, slots=True)
class UriText:
    """Annotation for a plain path or a URI of one of `schemes`."""

    schemes: tuple[str, ...] = ("s3", "file")

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return _checked_string(lambda text: _check_uri(text, self.schemes), min_length=1, max_length=2048)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "minLength": 1, "maxLength": 2048, SCHEMES_KEY: list(self.schemes)}


@dataclass(frozen=True, kw_only=True, slots=True)
class FormText:
    """Annotation for a string that matches `pattern` (with ^ and $)."""

    pattern: str
    words: str
    """What to do, in words: "write 64 hexadecimal digits"."""
    max_length: int
    min_length: int = 1

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return _checked_string(self._formed, min_length=self.min_length, max_length=self.max_length)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        lengths = {"minLength": self.min_length, "maxLength": self.max_length}
        return {"type": "string", "pattern": self.pattern, **lengths, FORM_KEY: self.words}

    def _formed(self, text: str) -> str:
        if not re.fullmatch(self.pattern, text):
            shown = text if len(text) <= 60 else f"{text[:59]}…"
            context = {"problem": f'"{shown}" has the wrong form', "remedy": self.words}
            raise PydanticCustomError("form", "{problem}", context)
        return text


def _checked_string(check: Callable[[str], str], *, max_length: int, min_length: int | None = None) -> CoreSchema:
    return core_schema.chain_schema(
        [
            core_schema.no_info_plain_validator_function(_quote_numbers),
            core_schema.str_schema(min_length=min_length, max_length=max_length, strict=True),
            core_schema.no_info_plain_validator_function(check),
        ]
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Unique:
    """Annotation for a list in which no value, or no combination of `keys` of its sections, occurs twice."""

    keys: tuple[str, ...] = ()
    """Names in YAML."""
    ordered: bool = False
    """Whether the order of the values means something."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._unique, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return handler(schema) | {UNIQUE_KEY: {"keys": list(self.keys), "ordered": self.ordered}}

    def _identity(self, value: Any) -> Any:
        return tuple(getattr(value, to_snake(key)) for key in self.keys) if self.keys else value

    def _unique(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        seen: set[Any] = set()
        for value in values:
            identity = self._identity(value)
            if identity in seen:
                shown = ", ".join(map(repr, identity)) if self.keys else repr(value)
                context = {"problem": f"{shown} is listed twice", "remedy": "remove the second one"}
                raise PydanticCustomError("duplicate", "{problem}", context)
            seen.add(identity)
        return values


Flag = Annotated[bool, Field(strict=True)]
Natural = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)]
Positive = Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)]
Seconds = Annotated[int, Field(strict=True, ge=1, le=10 * 365 * 86400)]
Text = Annotated[str, BeforeValidator(_quote_numbers), Field(strict=True, min_length=1, max_length=1024)]
LongText = Annotated[str, BeforeValidator(_quote_numbers), Field(strict=True, max_length=4096)]
"""May be empty."""
DnsLabel = Annotated[
    str,
    FormText(
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
        words="use lower-case letters, digits and dashes, and no dash at an end",
        max_length=63,
    ),
]
DnsName = Annotated[
    str,
    FormText(
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
        words="use lower-case letters, digits, dashes and dots, and letters or digits beside a dot and at both ends",
        max_length=253,
    ),
]
Quantity = Annotated[
    str,
    FormText(
        pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$",
        words='write a quantity such as "16", "500m" or "64Gi"',
        max_length=32,
    ),
]
Sha256 = Annotated[str, FormText(pattern=r"^[0-9a-f]{64}$", words="write 64 hexadecimal digits", max_length=64)]

Uri = Annotated[str, UriText()]
WeightsUri = Annotated[str, UriText(("s3", "file", "hf"))]

Share = Annotated[str, DecimalText(ge="0", le="1")]
"""A fraction with both ends allowed: probabilities, thresholds."""
OpenShare = Annotated[str, DecimalText(ge="0", lt="1")]
"""A fraction below 1: decays, drop rates."""
NonNegative = Annotated[str, DecimalText(ge="0", le="1000000")]
PositiveDecimal = Annotated[str, DecimalText(gt="0", le="1000000")]
Percent = Annotated[str, DecimalText(gt="0", le="100")]
