"""An event of a transition: what people and programs read of it, and that it is told once."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any

from semires_operator.actions import Note
from semires_operator.events import event_of
from semires_operator.log_lines import JOB, JsonFormatter

JOB_BODY = {"metadata": {"name": "a", "namespace": "team", "uid": "u", "resourceVersion": "7"}}
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def event(note: Note, *, attempt: int = 1) -> dict[str, Any]:
    return event_of(JOB_BODY, note, attempt=attempt, instance="pod-1", now=NOW)


def test_an_event_says_what_happened_to_which_job():
    body = event(Note(type="Warning", reason="Unschedulable", message="0/3 nodes are available"))

    assert (body["type"], body["reason"], body["note"]) == ("Warning", "Unschedulable", "0/3 nodes are available")
    assert body["regarding"]["uid"] == "u"
    assert body["reportingController"] == "semires.dev/semires-operator"


def test_the_same_note_has_the_same_name():
    note = Note(type="Normal", reason="Training", message="Attempt 1 trains.")

    assert event(note)["metadata"]["name"] == event(note)["metadata"]["name"]


def test_another_attempt_or_message_has_another_name():
    names = {
        event(Note(type="Normal", reason="Training", message=message), attempt=attempt)["metadata"]["name"]
        for message in ("x", "y")
        for attempt in (1, 2)
    }

    assert len(names) == 4


def test_a_long_message_is_cut_to_what_the_api_takes():
    assert len(event(Note(type="Normal", reason="r", message="x" * 5000))["note"]) == 1024


def test_a_line_of_the_log_names_the_job_that_is_worked_on():
    record = logging.LogRecord("x", logging.INFO, "f.py", 1, "Created %s.", ("a-a1",), None)
    token = JOB.set(("team", "a"))
    line = json.loads(JsonFormatter().format(record))
    JOB.reset(token)

    assert (line["namespace"], line["job"], line["message"]) == ("team", "a", "Created a-a1.")
