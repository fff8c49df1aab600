"""What the API server makes of a document before it judges it. Pure.

The manifest's models are stricter than JSON: to them a null is a value, and 3.0 is no whole number. The API server
drops a null from an object (the key counts as left out) and reads 3.0 as 3. A document that went through `admitted`
is judged by the models as the API server judges the original.

One exception: the API server's rules in CEL can't read 3.0. A client that writes it so (kubectl and other Go programs
write 3) is refused in fields that a rule reads, with "expected int, got float64".
"""

from __future__ import annotations

from typing import Any


def admitted(value: Any) -> Any:
    """`value` (parsed YAML or JSON) without nulls in objects and with integral floats as whole numbers.

    A null inside a list stays: the API server refuses it, and so do the models.
    """
    if isinstance(value, dict):
        return {key: admitted(child) for key, child in value.items() if child is not None}
    if isinstance(value, list):
        return [admitted(child) for child in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
