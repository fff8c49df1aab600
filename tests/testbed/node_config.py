"""Configuration files of the real node: containerd, kubelet, kube-proxy, CNI, CoreDNS, Prometheus. JSON is YAML."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed import images, network, requirements

NODE_NAME = "node-1"
CGROUP = "semires-testbed"
"""All pods are below this cgroup: what is left of a killed cluster is found there."""
CNI_NETWORK = "semires-testbed"
S3_PORT, PROMETHEUS_PORT = 7070, 9090


@dataclass(frozen=True, kw_only=True, slots=True)
class Mount:
    """A folder that the node gives to each container, as a GPU node gives the driver."""

    source: Path
    """On this machine."""
    destination: str
    """In the container; read-only there."""


def containerd(folder: Path) -> Path:
    """containerd: state in `folder`; no CAP_SYS_RESOURCE is needed (runc would fail without restrict_oom_score_adj)."""
    runtime = "io.containerd.cri.v1.runtime"
    unused = ("nri.v1.nri", "snapshotter.v1.btrfs", "snapshotter.v1.zfs", "snapshotter.v1.devmapper")
    lines = [
        "version = 3",
        f'root = "{folder}/containerd/root"',
        f'state = "{folder}/containerd/state"',
        f"disabled_plugins = {json.dumps([f'io.containerd.{name}' for name in unused])}",
        f'[grpc]\naddress = "{socket(folder)}"',
        f"[plugins.'io.containerd.cri.v1.images'.pinned_images]\nsandbox = \"{images.PAUSE_IMAGE}\"",
        f"[plugins.'{runtime}']",
        "disable_apparmor = true\nrestrict_oom_score_adj = true\nnetns_mounts_under_state_dir = true",
        f"[plugins.'{runtime}'.cni]",
        f'bin_dirs = ["{requirements.CNI_PLUGINS}"]\nconf_dir = "{folder}/cni"\nuse_internal_loopback = true',
        f"[plugins.'{runtime}'.containerd.runtimes.runc]",
        f'runtime_type = "io.containerd.runc.v2"\nbase_runtime_spec = "{folder}/base-spec.json"',
        f"[plugins.'{runtime}'.containerd.runtimes.runc.options]\nSystemdCgroup = false",
    ]
    return _write(folder / "containerd.toml", "\n".join(lines) + "\n")


def socket(folder: Path) -> Path:
    """Where containerd answers."""
    return folder / "containerd.sock"


def base_spec(folder: Path, default: Mapping[str, Any], mounts: tuple[Mount, ...]) -> Path:
    """What each container starts from: containerd's default, and the node's mounts."""
    added = [
        {"type": "bind", "source": str(one.source), "destination": one.destination, "options": ["rbind", "ro"]}
        for one in mounts
    ]
    return _write(folder / "base-spec.json", json.dumps({**default, "mounts": [*default["mounts"], *added]}))


def cni(folder: Path) -> Path:
    """A bridge, with all its state in `folder`."""
    ranges = [[{"subnet": network.PODS}]]
    addresses = {
        "type": "host-local",
        "ranges": ranges,
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": str(folder / "addresses"),
    }
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True, "ipam": addresses}
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    content = {"cniVersion": "1.0.0", "name": CNI_NETWORK, "plugins": [bridge, ports]}
    return _write(folder / "cni" / "10-bridge.conflist", json.dumps(content))


def kubelet(folder: Path, authority: Path) -> Path:
    """Also for cgroup v1, and for a machine whose disk is nearly full. YAML, for JSON files are read otherwise."""
    threshold = {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"}
    settings = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{CGROUP}",
        "containerRuntimeEndpoint": f"unix://{socket(folder)}",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(authority)},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(folder / "kubelet.crt"),
        "tlsPrivateKeyFile": str(folder / "kubelet.key"),
        "clusterDNS": [network.NODE],
        "clusterDomain": "cluster.local",
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        "podLogsDir": str(folder / "pod-logs"),
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {**threshold, "nodefs.inodesFree": "1%"},
        "shutdownGracePeriod": "0s",
        "syncFrequency": "10s",
    }
    return _write_yaml(folder / "kubelet.yaml", settings)


def kube_proxy(folder: Path, kubeconfig: Path) -> Path:
    """Services by nftables."""
    settings = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "hostnameOverride": NODE_NAME,
        "clusterCIDR": network.PODS,
        "conntrack": {"maxPerCore": 0},
    }
    return _write_yaml(folder / "kube-proxy.yaml", settings)


def coredns(folder: Path, kubeconfig: Path) -> Path:
    """Names of the cluster only."""
    lines = [
        ".:53 {",
        f"  bind {network.NODE}",
        f"  kubernetes cluster.local in-addr.arpa {{\n    kubeconfig {kubeconfig} testbed\n  }}",
        "  cache 5",
        "}",
    ]
    return _write(folder / "Corefile", "\n".join(lines) + "\n")


def prometheus(folder: Path) -> Path:
    """Scrapes the pods that testbed.prometheus_targets finds, every 2 s; rules may be put into the folder `rules`."""
    settings = {
        "global": {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "2s"},
        "rule_files": [str(folder / "rules" / "*.yaml")],
        "scrape_configs": [{"job_name": "pods", "file_sd_configs": [{"files": [str(targets(folder))]}]}],
    }
    return _write(folder / "prometheus.yaml", json.dumps(settings))


def targets(folder: Path) -> Path:
    """What Prometheus scrapes."""
    return folder / "targets.json"


def _write_yaml(path: Path, settings: Mapping[str, Any]) -> Path:
    """One line a key, each value JSON: a file that starts with a brace is refused as bad JSON by these programs."""
    return _write(path, "".join(f"{key}: {json.dumps(value)}\n" for key, value in settings.items()))


def _write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path
