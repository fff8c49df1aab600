"""An attempt as a PyTorchJob of Kubeflow's training-operator 1.9. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from semires_operator.launch import Launch
from semires_operator.names import QUEUE_LABEL, TRAINING, child_name
from semires_operator.pod import training_template
from semires_operator.settings import Settings

RENDEZVOUS_TIMEOUTS, RENDEZVOUS_SECONDS = ("read_timeout", "join_timeout"), 3600
"""Nodes come to torchrun when they have their inputs, which one may have in its cache and another not; by itself the
first waits for 60 s, and for 10 minutes for the last."""


@dataclass(frozen=True, slots=True)
class PyTorchJobs:
    """One pod: a Master. Several: Workers alone, of a fixed number, who find each other by c10d.

    A Master with Workers would give these an init container that the restricted standard refuses. Nothing is left to
    training-operator but to make the pods: its deadlines, its TTL and its retries have holes, and ours are the job's.
    """

    kind: str = "PyTorchJob"
    path: str = "kubeflow.org/v1"
    plural: str = "pytorchjobs"

    def build(self, launch: Launch, settings: Settings) -> dict[str, Any]:
        """The PyTorchJob of an attempt. ConfigError if the document is too long."""
        nodes, queue = launch.resources.nodes, launch.job.spec.queue
        name = child_name(launch.name, launch.attempt)
        replica = {"replicas": nodes, "restartPolicy": "Never", "template": training_template(launch, settings)}
        spec: dict[str, Any] = {
            "nprocPerNode": str(launch.ranks_per_node),
            "runPolicy": {"cleanPodPolicy": "None"},
            "pytorchReplicaSpecs": {"Master" if nodes == 1 else "Worker": replica},
        }
        if nodes > 1:
            spec["elasticPolicy"] = {
                "minReplicas": nodes,
                "maxReplicas": nodes,
                "maxRestarts": 0,
                "rdzvBackend": "c10d",
                "rdzvId": name,
                "rdzvConf": [{"key": key, "value": str(RENDEZVOUS_SECONDS)} for key in RENDEZVOUS_TIMEOUTS],
            }
        return {
            "apiVersion": self.path,
            "kind": self.kind,
            "metadata": {
                "name": name,
                "namespace": launch.namespace,
                "labels": launch.labels(TRAINING) | ({QUEUE_LABEL: queue} if queue else {}),
                "annotations": launch.annotations(),
                "ownerReferences": [launch.owner()],
            },
            "spec": spec,
        }
