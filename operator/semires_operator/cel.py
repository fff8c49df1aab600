"""What a rule of the CRD in CEL is, and those that follow from a field's type. Pure.

Rules are the twins, on the API server, of the manifest's pydantic validators. Each says in its message what stands
where and what to do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from semires_trainer.spec.explain import SHOWN_CHARACTERS
from semires_trainer.spec.scalars import BUCKET_PATTERN, DECIMAL_PATTERN, VISIBLE_PATTERN

Reason = Literal["FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One entry of x-kubernetes-validations."""

    rule: str
    """What must hold of `self`, in CEL."""
    problem: str
    """What is wrong; each {} stands for one of `values`."""
    remedy: str
    """What to do."""
    values: tuple[str, ...] = ()
    """Expressions in CEL for the message: what was received."""
    field: str = ""
    """Path of the field to correct, below the section: ".sam"; empty for the section itself."""
    reason: Reason = "FieldValueInvalid"
    """Invalid value, Forbidden or Required value: the words that the API server begins with."""

    def entry(self) -> dict[str, str]:
        """The rule as it stands in the CRD."""
        sentence = f"{self.problem}. {self.remedy[:1].upper()}{self.remedy[1:]}"
        # `message` is what is said when the expression fails, e.g. because a value holds a line break.
        entry = {"rule": self.rule, "message": sentence.replace("{}", "…")}
        if self.values:
            # `format` is all that the API server lets put a number into a text: it takes string(n) for endless.
            text = literal(sentence.replace("%", "%%").replace("{}", "%s"))
            entry["messageExpression"] = f"{text}.format([{', '.join(self.values)}])"
        if self.field:
            entry["fieldPath"] = self.field
        if self.reason != "FieldValueInvalid":
            entry["reason"] = self.reason
        return entry


def literal(text: str) -> str:
    """A string literal in CEL."""
    if "'" in text or "\\" in text:
        raise ValueError(f"a message holds a quote or a backslash: {text}")
    return f"'{text}'" if text else ""


def literals(words: Sequence[str]) -> str:
    """A list of string literals in CEL."""
    return "[" + ", ".join(map(literal, words)) + "]"


def shown(string: str, *, max_length: int) -> str:
    """The string `string` (in CEL), cut if it can be too long for a message."""
    if max_length <= SHOWN_CHARACTERS + 4:
        return string
    return f"({string}.size() > {SHOWN_CHARACTERS} ? {string}.substring(0, {SHOWN_CHARACTERS - 1}) + '…' : {string})"


def form_rule(pattern: str, words: str, *, max_length: int) -> Rule:
    """A string has the form of `pattern`."""
    value = shown("self", max_length=max_length)
    return Rule(rule=f"self.matches(r'{pattern}')", problem='"{}" has the wrong form', remedy=words, values=(value,))


def keys_rule(pattern: str, words: str, *, max_length: int) -> Rule:
    """The keys of a map have the form of `pattern`; the schema itself can't bound them."""
    fits = f"k.size() <= {max_length} && k.matches(r'{pattern}')"
    return Rule(
        rule=f"self.all(k, {fits})",
        problem='key "{}" has the wrong form',
        remedy=words,
        values=(shown(f"self.filter(k, !({fits}))[0]", max_length=max_length),),
    )


def range_rule(interval: str) -> Rule:
    """A string is a decimal number within `interval`, such as "(0, 100]"."""
    bounds = re.fullmatch(r"([\[(])([^,]+), ([^])]+)([\])])", interval)
    if bounds is None:
        raise ValueError(f"not an interval: {interval}")
    opening, low, high, closing = bounds.groups()
    above, below = {"[": ">=", "(": ">"}[opening], {"]": "<=", ")": "<"}[closing]
    return Rule(
        rule=f"self.matches(r'{DECIMAL_PATTERN}') && double(self) {above} {float(low)!r}"
        f" && double(self) {below} {float(high)!r}",
        problem=f'"{{}}" is not a number in {interval}',
        remedy='write one as text, such as "0.5" or "1e-3"',
        values=("self",),
    )


def uri_rule(schemes: Sequence[str]) -> Rule:
    """A string is a path, or a URI of one of the schemes."""
    named = "|".join(scheme for scheme in schemes if scheme != "file")
    forms = ", ".join(f"{scheme}://NAME/PATH" for scheme in schemes if scheme != "file")
    return Rule(
        rule=f"self.matches(r'{VISIBLE_PATTERN}') && "
        f"(!self.contains('://') || self.matches(r'^(({named})://{BUCKET_PATTERN}|file:///)'))",
        problem='"{}" is not a path or URI that can be read',
        remedy=f"use a path, file:///PATH or {forms}, without credentials and port",
        values=(shown("self", max_length=2048),),
    )


def unique_rule() -> Rule:
    """No value of a list whose order means something occurs twice."""
    return Rule(
        rule="self.all(x, self.exists_one(y, y == x))",
        problem='"{}" is listed twice',
        remedy="remove the second one",
        values=("self.filter(x, !self.exists_one(y, y == x))[0]",),
    )
