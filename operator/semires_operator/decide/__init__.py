"""What should exist for a job, and what its status says: a pure function of the job and of what the cluster shows.

`table.py` is the state machine: read it first. `look.py` has its conditions, `attempt.py`, `stop.py` and `between.py`
what they lead to, `record.py` what is written down, `tell.py` the words of the status.
"""

from __future__ import annotations

from semires_operator.decide.look import Builder
from semires_operator.decide.record import wants_log
from semires_operator.decide.table import decide
from semires_operator.seen import Job

__all__ = ["Builder", "Job", "decide", "wants_log"]
