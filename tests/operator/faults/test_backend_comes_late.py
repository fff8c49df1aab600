"""PyTorchJob is not known to the cluster when the job is made; then it is installed."""

from __future__ import annotations

import pytest
from testbed.api_cluster import ApiCluster
from testbed.bench import Bench
from testbed.cluster import pytorchjob_definition
from testbed.player import Script


@pytest.mark.long
def test_a_job_waits_for_pytorchjob_to_be_installed_and_goes_on_by_itself(
    place: Bench, own_api_cluster: ApiCluster
) -> None:
    own_api_cluster.kubectl("delete", "-f", str(pytorchjob_definition()))
    try:
        place.operator().start()
        place.submit()
        told = place.wait("it tells what is missing", lambda status: status.get("reason") == "BackendMissing")
        assert "Install Kubeflow training-operator" in told["message"]
        assert place.made("jobs") == []
    finally:
        own_api_cluster.crds()
    place.play(Script())

    assert place.wait_for_phase("Succeeded")["attempt"] == 1
    assert place.made("pytorchjobs") == ["a-a1"]
