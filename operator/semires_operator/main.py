"""The operator as a program: a Lease, a queue and watches, each of which ends it when it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import uuid
from collections.abc import Mapping
from datetime import datetime

import kopf

from semires_operator import kube
from semires_operator.actions import Decision
from semires_operator.builder import Bodies
from semires_operator.decide import decide
from semires_operator.endpoints import EndpointsError, EndpointsFile
from semires_operator.lease import Lease, LeaseLost, Terms
from semires_operator.log_lines import write_log
from semires_operator.metrics import Metrics
from semires_operator.observe import Observer
from semires_operator.observed import Observed
from semires_operator.polling import Address, Poller, address_of, poller
from semires_operator.reconcile import Reconciler
from semires_operator.seen import Job
from semires_operator.server import BEAT_SECONDS, Heartbeats, Server
from semires_operator.settings import Settings, SettingsError
from semires_operator.store import Key, Store
from semires_operator.watches import Watches, first_of
from semires_operator.work_queue import WorkQueue
from semires_trainer import __version__

logger = logging.getLogger(__name__)

TOKEN_FILE = "/var/run/secrets/kubernetes.io/serviceaccount/token"
USAGE, FAILURE = 2, 1


class Operator:
    """One replica, from its start to its end."""

    def __init__(self, settings: Settings, connection: kube.Connection, *, address: Address = address_of) -> None:
        """address: where a pod is asked for its progress. EndpointsError or OSError if the list can't be used."""
        self._settings = settings
        self._connection = connection
        self._address = address
        self._bodies = Bodies(EndpointsFile(settings.endpoints_file).current)
        self._instance = f"{settings.identity}_{uuid.uuid4().hex[:8]}"
        self._metrics = Metrics(version=__version__)
        self._heartbeats = Heartbeats()
        self._lease: Lease | None = None
        self._watches: Watches | None = None
        self.stop = asyncio.Event()
        """Set to end it."""

    async def run(self) -> None:
        """Wait for the Lease, then work, until `stop` is set. LeaseLost or RuntimeError if it ends by itself."""
        with Server(self._settings.http_port, self):
            await first_of(self._beat(), self._work())

    async def _work(self) -> None:
        settings, metrics = self._settings, self._metrics
        async with (
            kube.connect(self._connection, count=metrics.count_request) as api,
            poller(count=lambda result: metrics.polls.labels(result).inc(), address=self._address) as trainers,
        ):
            lease = self._lease = Lease(api, _terms(settings, self._instance))
            await first_of(lease.acquire(), self._until_stopped())
            try:
                if lease.leading:
                    metrics.leader.set(1)
                    await self._lead(api.fenced(lease.fence), lease, trainers)
            finally:
                metrics.leader.set(0)
                await lease.release()

    async def _lead(self, api: kube.Api, lease: Lease, trainers: Poller) -> None:
        store, queue = Store(), WorkQueue[Key]()
        self._metrics.watch(depth=queue.depth, lags=self._heartbeats.lags)
        watches = self._watches = Watches(
            api,
            self._connection,
            self._settings,
            store=store,
            queue=queue,
            heartbeats=self._heartbeats,
            metrics=self._metrics,
        )
        observer = Observer(
            api,
            store=store,
            poller=trainers,
            served=lambda: watches.served,
            sees_nodes=not self._settings.namespaces,
        )
        reconciler = Reconciler(
            api,
            observe=observer.observe,
            decide=self._decide,
            poller=trainers,
            store=store,
            metrics=self._metrics,
            instance=self._instance,
        )
        await first_of(
            lease.hold(),
            queue.run(reconciler.look, workers=self._settings.workers),
            watches.run(),
            self._until_stopped(),
        )

    def _decide(self, job: Job, seen: Observed, now: datetime) -> Decision:
        return decide(job, seen, self._settings, now, self._bodies)

    async def _until_stopped(self) -> None:
        await self.stop.wait()

    async def _beat(self) -> None:
        while True:
            self._heartbeats.beat("main")
            await asyncio.sleep(BEAT_SECONDS)

    def metrics(self) -> bytes:
        """Prometheus' text."""
        return self._metrics.text()

    def unhealthy(self) -> list[str]:
        """Loops that hang."""
        return self._heartbeats.dead()

    def unready(self) -> list[str]:
        """What this replica waits for: a standby for nothing, as long as it sees a leader."""
        if self._lease is None or not self._lease.holder:
            return ["no replica is known to lead"]
        if self._lease.leading and not (self._watches and self._watches.synced):
            return ["the objects of the cluster are not known yet"]
        return self._heartbeats.dead()


def _terms(settings: Settings, instance: str) -> Terms:
    return Terms(
        namespace=settings.namespace,
        name=settings.lease_name,
        identity=instance,
        duration=settings.lease_seconds,
        deadline=settings.lease_renew_seconds,
        retry=settings.lease_retry_seconds,
    )


def login(environ: Mapping[str, str]) -> kube.Connection | None:
    """Where the API server is: by KUBECONFIG, else by the ServiceAccount in a pod, else by ~/.kube/config."""
    settings = kopf.OperatorSettings()
    in_pod = "KUBECONFIG" not in environ and os.path.exists(TOKEN_FILE)
    find = kopf.login_with_service_account if in_pod else kopf.login_with_kubeconfig
    info = find(settings=settings)
    if info is None:
        return None
    return kube.Connection(
        server=info.server,
        ca_file=_text(info.ca_path),
        ca_data=_text(info.ca_data),
        certificate_file=_text(info.certificate_path),
        certificate_data=_text(info.certificate_data),
        key_file=_text(info.private_key_path),
        key_data=_text(info.private_key_data),
        token=info.token or "",
        token_file=TOKEN_FILE if in_pod else "",
        insecure=bool(info.insecure),
    )


def _text(value: object) -> str:
    return value.decode("ascii") if isinstance(value, bytes) else str(value or "")


async def operate(operator: Operator) -> None:
    """Run one replica until SIGTERM or SIGINT. LeaseLost or RuntimeError if it ends by itself."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, operator.stop.set)
    await operator.run()
    logger.info("Stopped.")


def main(environ: Mapping[str, str]) -> int:
    """Run the operator; its exit code."""
    try:
        settings = Settings.from_environment(environ)
    except SettingsError as error:
        return _refuse(str(error))
    write_log(level=settings.log_level, form=settings.log_format)
    connection = login(environ)
    if connection is None:
        return _refuse("There is no cluster: run in a pod with a ServiceAccount, or set KUBECONFIG.")
    try:
        operator = Operator(settings, connection)
    except (EndpointsError, OSError) as error:
        return _refuse(str(error))
    try:
        asyncio.run(operate(operator))
    except LeaseLost as lost:
        logger.error("%s Another replica may lead: this one stops.", lost)
        return FAILURE
    except Exception:
        logger.exception("This replica ends because of an error.")
        return FAILURE
    return 0


def _refuse(message: str) -> int:
    sys.stderr.write(f"{message}\n")
    return USAGE
