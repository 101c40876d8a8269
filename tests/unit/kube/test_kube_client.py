"""A failing API server becomes errors of ours, in time, with no body leaked."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ipa.adapters.kube.client import KubeClient
from ipa.model.errors import (
    ConfigurationError,
    ConflictError,
    ForbiddenError,
    InputError,
    IpaError,
    NotFoundError,
    UnavailableError,
)
from ipa.targets.seldon.locate import SELDON_DEPLOYMENT
from tests.fakes.clock import VirtualClock
from tests.fakes.kube import FakeKube, FaultKind

Json = dict[str, Any]
NAME = ("models", "sample")


def replicas(count: int, version: str = "") -> list[Json]:
    test = [{"op": "test", "path": "/metadata/resourceVersion", "value": version}] if version else []
    return [*test, {"op": "replace", "path": "/spec/predictors/0/componentSpecs/0/replicas", "value": count}]


def test_a_dry_run_keeps_nothing(kube: FakeKube, client: KubeClient) -> None:
    live = client.get(SELDON_DEPLOYMENT, *NAME)
    promised = client.patch(SELDON_DEPLOYMENT, *NAME, replicas(3), dry_run=True)
    assert promised["spec"]["predictors"][0]["componentSpecs"][0]["replicas"] == 3
    assert client.get(SELDON_DEPLOYMENT, *NAME) == live
    assert kube.writes == []


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, ForbiddenError),
        (403, ForbiddenError),
        (404, NotFoundError),
        (409, ConflictError),
        (429, UnavailableError),
        (500, UnavailableError),
        (503, UnavailableError),
        (504, UnavailableError),
    ],
)
def test_statuses_become_errors_of_ours_once_and_quote_no_body(
    kube: FakeKube, client: KubeClient, status: int, kind: type[IpaError]
) -> None:
    kube.fault(FaultKind.STATUS, status=status, times=5)
    with pytest.raises(IpaError) as failure:
        client.get(SELDON_DEPLOYMENT, *NAME)
    assert type(failure.value) is kind
    assert "models/sample" in failure.value.message
    assert "secret" not in str(failure.value)
    # Not sent again behind our back.
    assert len(kube.requests) == 1


@pytest.mark.parametrize("kind", [FaultKind.HANG, FaultKind.DRIP])
def test_every_call_ends_by_its_deadline(kube: FakeKube, tmp_path: Path, kind: FaultKind) -> None:
    kube.fault(kind)
    client = KubeClient.from_kubeconfig(str(kube.kubeconfig(tmp_path)), 0.3)
    with pytest.raises(UnavailableError, match=r"within 0\.3 s"):
        client.get(SELDON_DEPLOYMENT, *NAME)
    # Without a deadline the fake would keep it until the test's own time-out.
    client.close()


def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with FakeKube() as gone:
        config = gone.kubeconfig(tmp_path)
    client = KubeClient.from_kubeconfig(str(config), 5.0)
    with pytest.raises(UnavailableError, match="no answer"):
        client.get(SELDON_DEPLOYMENT, *NAME)
    client.close()


def test_a_failed_test_of_the_patch_is_a_conflict_though_the_server_says_422(client: KubeClient) -> None:
    with pytest.raises(ConflictError):
        client.patch(SELDON_DEPLOYMENT, *NAME, replicas(2, "1"))


def test_a_refusal_by_the_webhook_is_our_input_and_says_why(client: KubeClient) -> None:
    rename = [{"op": "replace", "path": "/spec/predictors/0/graph/name", "value": "nobody"}]
    with pytest.raises(InputError, match="Can't find container for node nobody"):
        client.patch(SELDON_DEPLOYMENT, *NAME, rename)


def test_configuration_that_cannot_be_used_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigurationError, match="not running in a pod"):
        KubeClient.from_kubeconfig("", 1.0)
    for content in (None, "", "{}", "a: [", "\x00", "[]", "text", "contexts: 1"):
        path = tmp_path / "config"
        if content is not None:
            path.write_text(content)
        with pytest.raises(ConfigurationError, match="cannot be used"):
            KubeClient.from_kubeconfig(str(path), 1.0)


def test_a_read_is_sent_again_when_the_server_said_and_a_write_is_not(
    kube: FakeKube, client: KubeClient, clock: VirtualClock
) -> None:
    kube.fault(FaultKind.STATUS, status=429, retry_after="3", times=2)
    assert client.get(SELDON_DEPLOYMENT, *NAME)["metadata"]["name"] == "sample"
    assert len(kube.requests) == 3
    assert clock.monotonic_s() >= 6.0
    kube.fault(FaultKind.STATUS, status=429, retry_after="1")
    with pytest.raises(UnavailableError, match="answered 429"):
        client.patch(SELDON_DEPLOYMENT, *NAME, replicas(3))
    # Nor does the next one go late: what it was decided on is older by then.
    with pytest.raises(UnavailableError, match="not sent"):
        client.patch(SELDON_DEPLOYMENT, *NAME, replicas(3))
    clock.wait(2.0)
    client.patch(SELDON_DEPLOYMENT, *NAME, replicas(3))
    assert len(kube.writes) == 1


def test_a_redirect_is_not_followed(kube: FakeKube, client: KubeClient) -> None:
    """It would take our token to where it leads."""
    kube.fault(FaultKind.STATUS, status=302, times=3)
    with pytest.raises(UnavailableError, match="answered 302"):
        client.get(SELDON_DEPLOYMENT, *NAME)
    assert len(kube.requests) == 1


def test_the_token_is_said_to_the_server_and_to_nobody_else(
    kube: FakeKube, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    kube.tokens = {"canary-token"}
    client = KubeClient.from_kubeconfig(str(kube.kubeconfig(tmp_path, "canary-token")), 10.0)
    client.get(SELDON_DEPLOYMENT, *NAME)
    kube.tokens = {"another"}
    with pytest.raises(ForbiddenError) as failure:
        client.get(SELDON_DEPLOYMENT, *NAME)
    assert "canary" not in f"{failure.value} {failure.value.__cause__} {caplog.text}"
    client.close()


def test_a_token_file_that_cannot_be_read_is_no_end(kube: FakeKube, tmp_path: Path) -> None:
    """Between the old projected token and the new one there may be none."""
    path = kube.kubeconfig(tmp_path)
    client = KubeClient.from_kubeconfig(str(path), 10.0)
    kube.tokens = {"new"}
    path.write_text("half of a")
    with pytest.raises(ForbiddenError):
        client.get(SELDON_DEPLOYMENT, *NAME)
    kube.kubeconfig(tmp_path, "new")
    assert client.get(SELDON_DEPLOYMENT, *NAME)["metadata"]["name"] == "sample"
    client.close()


def test_a_server_that_moved_is_found_by_the_credentials_that_were_read_again(
    kube: FakeKube, tmp_path: Path
) -> None:
    with FakeKube() as old:
        old.tokens = set()
        path = old.kubeconfig(tmp_path)
        client = KubeClient.from_kubeconfig(str(path), 10.0)
        kube.tokens = {"new"}
        kube.kubeconfig(tmp_path, "new")
        assert client.get(SELDON_DEPLOYMENT, *NAME)["metadata"]["name"] == "sample"
    client.close()


def test_a_watch_can_be_closed_from_another_thread(kube: FakeKube, client: KubeClient) -> None:
    _, version = client.list_all(SELDON_DEPLOYMENT, "models")
    stream = client.watch(SELDON_DEPLOYMENT, "models", version, 3600.0)
    events: list[Json] = []
    ended = threading.Event()

    def follow() -> None:
        # Cut off, which is what was asked for.
        with suppress(UnavailableError):
            events.extend(stream)
        ended.set()

    thread = threading.Thread(target=follow)
    thread.start()
    while not any(one.verb == "watch" for one in kube.requests):
        assert not ended.wait(0.01)
    stream.close()
    thread.join(30.0)
    assert ended.is_set()
    # One that is closed before it began never begins.
    stream = client.watch(SELDON_DEPLOYMENT, "models", version, 3600.0)
    stream.close()
    assert list(stream) == []
