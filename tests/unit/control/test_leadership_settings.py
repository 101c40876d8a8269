"""When replicas elect a leader, and what settings are refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.lease import LeaseLeadership
from ipa.bootstrap import leader_election
from ipa.bootstrap.leader_election import election_faults, make_leadership
from ipa.model.errors import ConfigurationError
from ipa.settings import Settings
from tests.fakes.kube import FakeKube


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Iterator[str]:
    with FakeKube() as kube:
        yield str(kube.kubeconfig(tmp_path))


def leadership(**settings: Any) -> LeaseLeadership | None:
    with ExitStack() as resources:
        return make_leadership(Settings(**settings), lambda: None, resources)


def test_nobody_is_elected_outside_of_a_pod_unless_asked_for(kubeconfig: str) -> None:
    assert leadership() is None
    assert leadership(target="kubernetes", kubeconfig=kubeconfig) is None
    assert leadership(target="kubernetes", leader_election="off") is None


def test_asked_for_it_works_with_a_kubeconfig(kubeconfig: str) -> None:
    lead = leadership(
        target="kubernetes",
        kubeconfig=kubeconfig,
        leader_election="on",
        lease_namespace="models",
        lease_identity="me",
    )
    assert lead is not None
    assert not lead.leading()
    assert lead.standing().identity.startswith("me_")


def test_a_pod_takes_part_by_itself_under_its_name_in_its_namespace(
    kubeconfig: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_file = KubeClient.from_kubeconfig

    def of_pod(path: str, timeout_s: float, *, backoff: Any = None) -> KubeClient:
        # One call that hangs leaves time for another before the deadline.
        assert (path, timeout_s, backoff.longest_s) == ("", 5.0, 2.0)
        return of_file(kubeconfig, timeout_s)

    (tmp_path / "namespace").write_text("models\n")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setattr(leader_election, "POD_NAMESPACE", tmp_path / "namespace")
    monkeypatch.setattr(KubeClient, "from_kubeconfig", of_pod)
    monkeypatch.setattr("socket.gethostname", lambda: "ipa-7d9f-x2x")
    first, second = leadership(target="kubernetes"), leadership(target="kubernetes", install="blue")
    assert first is not None and second is not None
    assert first.standing().identity.startswith("ipa-7d9f-x2x_")
    assert first.standing().identity != second.standing().identity
    places = [(one._place.namespace, one._place.name) for one in (first, second)]
    assert places == [("models", "ipa-serving"), ("models", "blue-serving")]


def test_what_is_wrong_is_told_together() -> None:
    assert list(election_faults(Settings(leader_election="on", lease_s=5.0))) == [
        "the renew deadline of 10 s is not below the lease of 5 s, so two could lead at once",
        "IPA_LEADER_ELECTION=on needs a target that writes a cluster: kubernetes or deployments",
    ]


def test_without_a_pod_the_namespace_is_to_be_given(kubeconfig: str) -> None:
    settings = Settings(target="kubernetes", kubeconfig=kubeconfig, leader_election="on")
    assert list(election_faults(settings)) == ["IPA_LEASE_NAMESPACE is needed outside of a pod"]


def test_an_unknown_choice_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="IPA_LEADER_ELECTION='yes' is none of auto, on, off"):
        Settings.from_env({"IPA_LEADER_ELECTION": "yes"})
