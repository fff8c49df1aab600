"""The operator as a program: a Lease, a queue and watches, each of which ends it when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial

import kopf

from semires_operator import kube
from semires_operator.actions import Decision
from semires_operator.decide import decide
from semires_operator.endpoints import EndpointsError, EndpointsFile
from semires_operator.lease import Lease, LeaseLost, Terms
from semires_operator.log_lines import write_log
from semires_operator.metrics import Metrics
from semires_operator.observe import Observer
from semires_operator.observed import Observed
from semires_operator.polling import Address, address_of, poller
from semires_operator.reconcile import Reconciler
from semires_operator.server import BEAT_SECONDS, Heartbeats, Server
from semires_operator.settings import Settings, SettingsError
from semires_operator.store import Key, Raw, Store
from semires_operator.watches import Watches, first_of
from semires_operator.work_queue import WorkQueue
from semires_trainer import __version__

logger = logging.getLogger(__name__)

TOKEN_FILE = "/var/run/secrets/kubernetes.io/serviceaccount/token"
USAGE, FAILURE = 2, 1
