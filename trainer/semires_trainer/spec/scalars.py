"""Building blocks of the manifest: the base model and the validated scalar types.

Numbers that are not whole are decimal strings ("0.996"), because YAML and JSON tools round floats. They are
checked exactly with `Decimal` and turned into floats by `resolve`.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

DECIMAL_PATTERN = r"^(0|[1-9][0-9]{0,8})(\.[0-9]{1,12})?([eE]-?[0-9]{1,2})?$"
RANGE_KEY = "x-semires-range"
"""JSON Schema key under which a decimal carries its range until `config.json_schema` moves it into the
description."""


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
        text = core_schema.str_schema(pattern=DECIMAL_PATTERN, max_length=32, strict=True)
        return core_schema.chain_schema(
            [
                core_schema.no_info_plain_validator_function(_quote_numbers),
                text,
                core_schema.no_info_plain_validator_function(self._within),
            ]
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "pattern": DECIMAL_PATTERN, "maxLength": 32, RANGE_KEY: self.interval}

    def _within(self, text: str) -> str:
        value = Decimal(text)
        inside = (
            (self.ge is None or value >= Decimal(self.ge))
            and (self.gt is None or value > Decimal(self.gt))
            and (self.le is None or value <= Decimal(self.le))
            and (self.lt is None or value < Decimal(self.lt))
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


def _check_uri(text: str, schemes: tuple[str, ...]) -> str:
    scheme, separator, rest = text.partition("://")
    problem, remedy = "", ""
    if separator and scheme not in schemes:
        problem = f'"{scheme}://" is not supported'
        remedy = "use a path or " + ", ".join(f"{name}://" for name in schemes)
    elif separator and scheme != "file" and not re.match(r"^[A-Za-z0-9][A-Za-z0-9._-]*(/|$)", rest):
        problem = f'"{text}" has no valid bucket or repository after {scheme}://'
        remedy = f"write {scheme}://NAME/PATH without credentials or a port"
    elif separator and scheme == "file" and not rest.startswith("/"):
        problem, remedy = f'"{text}" is not absolute', "write file:///absolute/path or a plain path"
    elif not text.strip() or any(ord(character) < 32 for character in text):
        problem, remedy = "is empty or holds control characters", "give a path or a URI"
    if problem:
        raise PydanticCustomError("uri", "{problem}", {"problem": problem, "remedy": remedy})
    return text


@dataclass(frozen=True, slots=True)
class UriText:
    """Annotation for a plain path or a URI of one of `schemes`."""

    schemes: tuple[str, ...] = ("s3", "file")

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.chain_schema(
            [
                core_schema.no_info_plain_validator_function(_quote_numbers),
                core_schema.str_schema(min_length=1, max_length=2048, strict=True),
                core_schema.no_info_plain_validator_function(lambda text: _check_uri(text, self.schemes)),
            ]
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "minLength": 1, "maxLength": 2048}


Item = TypeVar("Item", bound=Hashable)


def unique(values: tuple[Item, ...]) -> tuple[Item, ...]:
    """Validator: refuse a list in which a value occurs twice."""
    seen: set[Item] = set()
    for value in values:
        if value in seen:
            context = {"problem": f"{value!r} is listed twice", "remedy": "remove the second one"}
            raise PydanticCustomError("duplicate", "{problem}", context)
        seen.add(value)
    return values


Flag = Annotated[bool, Field(strict=True)]
Natural = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)]
Positive = Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)]
Seconds = Annotated[int, Field(strict=True, ge=1, le=10 * 365 * 86400)]
Text = Annotated[str, BeforeValidator(_quote_numbers), Field(strict=True, min_length=1, max_length=1024)]
DnsLabel = Annotated[Text, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
DnsName = Annotated[Text, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
Quantity = Annotated[Text, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$", max_length=32)]
Sha256 = Annotated[Text, Field(pattern=r"^[0-9a-f]{64}$")]

Uri = Annotated[str, UriText()]
WeightsUri = Annotated[str, UriText(("s3", "file", "hf"))]

Share = Annotated[str, DecimalText(ge="0", le="1")]
"""A fraction with both ends allowed: probabilities, thresholds."""
OpenShare = Annotated[str, DecimalText(ge="0", lt="1")]
"""A fraction below 1: decays, drop rates."""
NonNegative = Annotated[str, DecimalText(ge="0", le="1000000")]
PositiveDecimal = Annotated[str, DecimalText(gt="0", le="1000000")]
Percent = Annotated[str, DecimalText(gt="0", le="100")]
