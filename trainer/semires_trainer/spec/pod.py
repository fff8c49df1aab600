"""The typed part of a pod a user may set. Commands, host access and weaker security contexts are not in the
list."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from semires_trainer.spec.scalars import (
    DnsLabel,
    DnsName,
    Flag,
    FormText,
    LongText,
    Natural,
    Quantity,
    Section,
    Text,
    Unique,
    contradiction,
)

LabelKey = Annotated[
    str,
    FormText(
        pattern=r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$",
        words="write name or domain/name, such as example.com/zone",
        max_length=317,
    ),
]
LabelValue = Annotated[
    str,
    FormText(
        pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$",
        words="use letters, digits, dashes, dots and underscores, and a letter or digit at both ends",
        max_length=63,
        min_length=0,
    ),
]
VariableName = Annotated[
    str,
    FormText(
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        words="use letters, digits and underscores, and no digit first",
        max_length=256,
    ),
]
ObjectKey = Annotated[
    str,
    FormText(pattern=r"^[-._A-Za-z0-9]+$", words="use letters, digits, dots, dashes and underscores", max_length=253),
]
MountPath = Annotated[
    str, FormText(pattern=r"^/[^:]+$", words="write an absolute path without a colon", max_length=512)
]
AnnotationValue = Annotated[str, Field(strict=True, max_length=8192)]
Weight = Annotated[int, Field(strict=True, ge=1, le=100)]

RESERVED_ENVIRONMENT = re.compile(
    r"^(AWS_.*|PET_.*|SEMIRES_.*|RANK|LOCAL_RANK|WORLD_SIZE|LOCAL_WORLD_SIZE|MASTER_.*|(CUDA|NVIDIA)_VISIBLE_DEVICES)$"
)
RESERVED_VOLUMES = re.compile(r"^semires-.*$")
RESERVED_FOLDERS = re.compile(r"^/(tmp|dev/shm|home/semires|var/cache/semires|etc/semires)/*$")
"""Where the operator mounts volumes of its own; folders inside may be mounted."""
RESERVED_KEYS = re.compile(r"^([a-z0-9.-]*\.)?(semires\.dev|kubeflow\.org|kueue\.x-k8s\.io)/")


def _not_reserved(labels: dict[str, str]) -> dict[str, str]:
    for key in labels:
        if RESERVED_KEYS.match(key):
            context = {"problem": f'"{key}" is set by the operator', "remedy": "remove it"}
            raise PydanticCustomError("reserved", "{problem}", context)
    return labels


class KeyRef(Section):
    """One key of a Secret or ConfigMap."""

    name: DnsName
    """Name of the object."""
    key: ObjectKey
    """Key inside it."""
    optional: Flag = False
    """Start also when it is absent."""


class EnvSource(Section):
    """Source of a variable. Exactly one of the two."""

    secret_key_ref: KeyRef | None = None
    """Key of a Secret in the job's namespace."""
    config_map_key_ref: KeyRef | None = None
    """Key of a ConfigMap in the job's namespace."""

    @model_validator(mode="after")
    def _one_source(self) -> EnvSource:
        if (self.secret_key_ref is None) == (self.config_map_key_ref is None):
            raise contradiction("", "exactly one of secretKeyRef, configMapKeyRef is needed", "keep one of them")
        return self


class Env(Section):
    """An environment variable of the trainer."""

    name: VariableName
    """Name. AWS_*, PET_*, SEMIRES_*, MASTER_*, RANK, WORLD_SIZE and their LOCAL_ forms are refused."""
    value: LongText | None = None
    """Value."""
    value_from: EnvSource | None = None
    """Source, instead of value."""

    @model_validator(mode="after")
    def _allowed(self) -> Env:
        if RESERVED_ENVIRONMENT.match(self.name):
            raise contradiction(
                "name",
                f"{self.name} is set by the operator",
                "remove it; for storage access use spec.storage",
            )
        if self.value is not None and self.value_from is not None:
            raise contradiction("valueFrom", "value and valueFrom exclude each other", "remove one of them")
        return self


class Toleration(Section):
    """A toleration as in a Kubernetes pod."""

    key: LabelKey | None = None
    """Taint key; left out matches all with operator Exists."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """How the taint is compared."""
    value: LabelValue | None = None
    """Taint value for Equal."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Taint effect; left out matches all."""
    toleration_seconds: Natural | None = None
    """How long NoExecute is tolerated."""


class NodeRequirement(Section):
    """A condition on a node label or field."""

    key: LabelKey
    """Label key."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
    """Comparison."""
    values: Annotated[tuple[LabelValue, ...], Field(max_length=64)] = ()
    """Values for In, NotIn, Gt, Lt."""


class NodeTerm(Section):
    """Conditions that must all hold."""

    match_expressions: Annotated[tuple[NodeRequirement, ...], Field(max_length=32)] = ()
    """Conditions on labels."""
    match_fields: Annotated[tuple[NodeRequirement, ...], Field(max_length=8)] = ()
    """Conditions on fields such as metadata.name."""


class NodeSelector(Section):
    """Terms of which one must hold."""

    node_selector_terms: Annotated[tuple[NodeTerm, ...], Field(min_length=1, max_length=32)]
    """Alternatives."""


class PreferredNodes(Section):
    """A weighted preference for nodes."""

    weight: Weight
    """1 to 100."""
    preference: NodeTerm
    """Conditions."""


class NodeAffinity(Section):
    """Node affinity as in a Kubernetes pod."""

    required_during_scheduling_ignored_during_execution: NodeSelector | None = None
    """Conditions that must hold."""
    preferred_during_scheduling_ignored_during_execution: Annotated[
        tuple[PreferredNodes, ...], Field(max_length=32)
    ] = ()
    """Conditions that should hold."""


class LabelRequirement(Section):
    """A condition on a label of a pod."""

    key: LabelKey
    """Label key."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """Comparison."""
    values: Annotated[tuple[LabelValue, ...], Field(max_length=64)] = ()
    """Values for In, NotIn."""


class LabelSelector(Section):
    """Pods by label."""

    match_labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=32)] = Field(default_factory=dict)
    """Labels with these values."""
    match_expressions: Annotated[tuple[LabelRequirement, ...], Field(max_length=32)] = ()
    """Further conditions."""


class PodTerm(Section):
    """Other pods and the domain in which they count."""

    label_selector: LabelSelector
    """The other pods."""
    topology_key: LabelKey
    """Node label that makes the domain, e.g. kubernetes.io/hostname."""
    namespaces: Annotated[tuple[DnsLabel, ...], Field(max_length=32)] = ()
    """Namespaces of the other pods; empty means the job's own."""


class WeightedPodTerm(Section):
    """A weighted preference with regard to other pods."""

    weight: Weight
    """1 to 100."""
    pod_affinity_term: PodTerm
    """The other pods."""


class PodAffinity(Section):
    """Affinity or anti-affinity to other pods, as in a Kubernetes pod."""

    required_during_scheduling_ignored_during_execution: Annotated[tuple[PodTerm, ...], Field(max_length=32)] = ()
    """Conditions that must hold."""
    preferred_during_scheduling_ignored_during_execution: Annotated[
        tuple[WeightedPodTerm, ...], Field(max_length=32)
    ] = ()
    """Conditions that should hold."""


class Affinity(Section):
    """Affinity as in a Kubernetes pod."""

    node_affinity: NodeAffinity | None = None
    """Nodes to run on."""
    pod_affinity: PodAffinity | None = None
    """Pods to be near."""
    pod_anti_affinity: PodAffinity | None = None
    """Pods to be far from."""


class ConfigMapVolume(Section):
    """Files from a ConfigMap."""

    name: DnsName
    """Name of the ConfigMap."""
    optional: Flag = False
    """Start also when it is absent."""


class SecretVolume(Section):
    """Files from a Secret."""

    secret_name: DnsName
    """Name of the Secret."""
    optional: Flag = False
    """Start also when it is absent."""


class ClaimVolume(Section):
    """A PersistentVolumeClaim."""

    claim_name: DnsName
    """Name of the claim."""
    read_only: Flag = False
    """Mount without write access."""


class EmptyDirVolume(Section):
    """A folder that is lost with the pod."""

    medium: Literal["", "Memory"] = ""
    """Memory keeps it in RAM."""
    size_limit: Quantity | None = None
    """Largest size."""


class Volume(Section):
    """A volume: exactly one source. hostPath and projected tokens are not offered."""

    name: DnsLabel
    """Name that volumeMounts refer to."""
    config_map: ConfigMapVolume | None = None
    """Files from a ConfigMap."""
    secret: SecretVolume | None = None
    """Files from a Secret."""
    persistent_volume_claim: ClaimVolume | None = None
    """A PersistentVolumeClaim."""
    empty_dir: EmptyDirVolume | None = None
    """A folder that is lost with the pod."""

    @model_validator(mode="after")
    def _one_source(self) -> Volume:
        if RESERVED_VOLUMES.match(self.name):
            raise contradiction("name", f'"{self.name}" is set by the operator', "choose a name without semires-")
        sources = (self.config_map, self.secret, self.persistent_volume_claim, self.empty_dir)
        if sum(source is not None for source in sources) != 1:
            raise contradiction(
                "",
                "exactly one of configMap, secret, persistentVolumeClaim, emptyDir is needed",
                "keep one of them",
            )
        return self


class VolumeMount(Section):
    """Where a volume appears."""

    name: Annotated[LongText, Field(max_length=63)]
    """Name of the volume."""
    mount_path: MountPath
    """Absolute path in the container."""
    sub_path: Annotated[Text, Field(max_length=512)] | None = None
    """Folder inside the volume."""
    read_only: Flag = False
    """Mount without write access."""

    @model_validator(mode="after")
    def _elsewhere(self) -> VolumeMount:
        if RESERVED_FOLDERS.match(self.mount_path):
            raise contradiction("mountPath", f'"{self.mount_path}" is mounted by the operator', "mount it elsewhere")
        return self


class PullSecret(Section):
    """Credentials of an image registry."""

    name: DnsName
    """Name of the Secret."""


class Pod(Section):
    """What may be set on the training pods."""

    node_selector: Annotated[dict[LabelKey, LabelValue], Field(max_length=32)] = Field(default_factory=dict)
    """Node labels that must match."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=32)] = ()
    """Taints that are tolerated."""
    affinity: Affinity | None = None
    """Nodes and pods to be near to or far from; the fields of a Kubernetes pod's affinity."""
    env: Annotated[tuple[Env, ...], Field(max_length=64), Unique(keys=("name",))] = ()
    """Environment variables of the trainer."""
    volumes: Annotated[tuple[Volume, ...], Field(max_length=32), Unique(keys=("name",))] = ()
    """Volumes."""
    volume_mounts: Annotated[tuple[VolumeMount, ...], Field(max_length=32), Unique(keys=("mountPath",))] = ()
    """Where volumes appear."""
    image_pull_secrets: Annotated[tuple[PullSecret, ...], Field(max_length=16), Unique(keys=("name",))] = ()
    """Credentials of image registries."""
    runtime_class_name: DnsName | None = None
    """RuntimeClass, e.g. nvidia."""
    priority_class_name: DnsName | None = None
    """PriorityClass."""
    labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=32), AfterValidator(_not_reserved)] = Field(
        default_factory=dict
    )
    """Labels of the pods."""
    annotations: Annotated[dict[LabelKey, AnnotationValue], Field(max_length=32), AfterValidator(_not_reserved)] = (
        Field(default_factory=dict)
    )
    """Annotations of the pods."""
    fs_group: Natural | None = None
    """Group that owns mounted volumes."""

    @model_validator(mode="after")
    def _mounts_have_volumes(self) -> Pod:
        names = {volume.name for volume in self.volumes}
        for index, mount in enumerate(self.volume_mounts):
            if mount.name not in names:
                raise contradiction(
                    f"volumeMounts[{index}].name",
                    f'there is no volume "{mount.name}"',
                    "add it to volumes or correct the name",
                )
        return self
