"""Commands of `semires` that speak with a cluster, through `semires_operator.client`: the extra `operator`.

Nothing heavy is imported before one of them runs.
"""

from __future__ import annotations

import click

from semires_operator.cli.follow import logs
from semires_operator.cli.show import describe, list_jobs
from semires_operator.cli.steer import resume, suspend, wait
from semires_operator.cli.submit import submit

COMMANDS: tuple[click.Command, ...] = (submit, list_jobs, describe, logs, suspend, resume, wait)
