"""Jobs that the API server takes and the cluster can't run: within a minute each tells why, and what to do."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest
from testbed.waiting import wait_until

from semires_operator.reasons import ABOUT, Reason

TOLD_SECONDS = 60.0
SILENT_AFTER = 30.0
"""Until then refused writes are tried again more often than each minute."""
SAYS_ITSELF = (Reason.QUEUED, Reason.ENDPOINT_NOT_ALLOWED)
"""Reasons whose remedy is part of what was found: wait; one of the names that are allowed."""


def test_it_tells_reason_field_value_and_remedy_within_a_minute(ward: Any, wrong: Any) -> None:
    left = max(1.0, ward.began + TOLD_SECONDS - time.monotonic())

    def look() -> dict[str, Any] | None:
        status = ward.status(wrong)
        is_told = status.get("reason") == wrong.reason and all(name in status["message"] for name in wrong.names)
        return status if is_told else None

    status = wait_until(
        f"{wrong.name} tells {wrong.reason}", look, seconds=left, seen=lambda: str(ward.status(wrong))[:3000]
    )

    progressing = next(one for one in status["conditions"] if one["type"] == "Progressing")
    assert (progressing["status"], progressing["reason"]) == ("False", wrong.reason)
    assert progressing["message"] == status["message"]
    assert wrong.reason in SAYS_ITSELF or ABOUT[Reason(wrong.reason)].remedy in status["message"]


@pytest.mark.parametrize("seconds", [15, pytest.param(180, marks=pytest.mark.long)])
def test_then_it_is_silent(ward: Any, seconds: int) -> None:
    """At most a write a minute for each job, whatever the cluster says again and again."""
    time.sleep(max(0.0, ward.began + SILENT_AFTER - time.monotonic()))
    ward.bench.proxy.forget()
    time.sleep(seconds)

    requests = [one.request for one in ward.bench.proxy.exchanges() if one.request.writes]
    patched = Counter(one.name for one in requests if one.resource == "semiresjobs")
    others = Counter(f"{one.verb} {one.resource}" for one in requests if one.resource not in ("leases", "semiresjobs"))
    most = 1 + seconds // 60
    assert all(count <= most for count in patched.values()), patched
    assert all(count <= 2 * most for count in others.values()), others


def test_the_operator_has_not_crashed(ward: Any) -> None:
    assert ward.operator.alive
    assert ward.operator.starts == 1
    assert ward.operator.tracebacks() == 0, ward.operator.tail()
