"""A failing API server becomes errors of ours, in time; failures wait longer, and nobody comes in a herd."""

from __future__ import annotations

import logging
import math
import threading
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.transport import (
    LONGEST_RETRY_AFTER_S,
    RATE_PER_S,
    SLOW_S,
    Backoff,
    Throttle,
    retry_after_s,
)
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
from tests.fakes.clock import SharedClock, VirtualClock
from tests.fakes.kube import FakeKube, FaultKind
from tests.fakes.kube.server import kubeconfig

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
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    with pytest.raises(ConfigurationError, match="this pod's account cannot be used"):
        KubeClient.from_kubeconfig("", 1.0)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST")
    usual = "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION"
    monkeypatch.setattr(usual, str(tmp_path / "kubectl"))
    with pytest.raises(ConfigurationError, match="kubectl's kubeconfig cannot be used"):
        KubeClient.from_kubeconfig("", 1.0)
    (tmp_path / "kubectl").write_text(kubeconfig("http://127.0.0.1:1", "x"))
    KubeClient.from_kubeconfig("", 1.0).close()
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


GAP_S = 1.0 / RATE_PER_S


def test_waits_double_to_the_longest_and_half_of_them_is_jitter() -> None:
    backoff = Backoff(0.5, 8.0)
    assert [backoff.delay_s(failures, 0.0) for failures in range(7)] == [0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 4.0]
    assert backoff.delay_s(3, 1.0) == 2.0
    assert backoff.delay_s(10_000, 1.0) == 8.0


@given(st.integers(1, 100), st.integers(0, 2**32))
def test_clients_that_failed_together_do_not_come_back_together(failures: int, seed: int) -> None:
    random = Random(seed)
    waits = {Backoff().delay_s(failures, random.random()) for _ in range(50)}
    assert len(waits) > 40


@pytest.fixture
def gate(clock: VirtualClock) -> Throttle:
    return Throttle(clock, seed=0)


@given(st.floats(0.0, 3600.0), st.integers(0, 2**32), st.floats(0.0, 1e6))
def test_what_the_server_asked_for_is_kept_and_not_by_much_exceeded(
    asked_s: float, seed: int, now_s: float
) -> None:
    clock = VirtualClock()
    clock.wait(now_s)
    gate = Throttle(clock, seed=seed)
    gate.pushed_back(gate.enter("one", 1.0), asked_s)
    wait_s = gate.enter("another", math.inf) - now_s
    assert asked_s - 1e-6 <= wait_s <= asked_s + min(0.25 * asked_s, 2.0) + 1e-6


def test_a_wait_of_a_day_is_a_mistake_of_the_server(gate: Throttle) -> None:
    gate.pushed_back(gate.enter("one", 1.0), 86_400.0)
    assert gate.enter("another", math.inf) <= LONGEST_RETRY_AFTER_S + 2.0


def test_after_a_failure_one_in_each_wait_tries_and_then_they_go_at_a_rate(
    gate: Throttle, clock: VirtualClock
) -> None:
    gate.pushed_back(gate.enter("one", 1.0), None)
    sent_s = gate.enter("another", 10.0)
    assert 0.25 <= sent_s <= 0.5
    with pytest.raises(UnavailableError, match="backing off from the API server"):
        gate.enter("a third", 0.0)
    gate.answered(sent_s)
    for _ in range(2):
        before_s = clock.monotonic_s()
        assert gate.enter("later ones", 10.0) - before_s == pytest.approx(GAP_S)
    # Some time later the server is trusted again.
    clock.wait(SLOW_S)
    assert gate.enter("one", 0.0) == gate.enter("another", 0.0)


def test_requests_that_were_out_together_are_one_failure(gate: Throttle, clock: VirtualClock) -> None:
    sent = []
    for _ in range(3):
        sent.append(gate.enter("one of three", 1.0))
        clock.wait(0.1)
    for sent_s in sent:
        gate.pushed_back(sent_s, None)
        clock.wait(0.1)
    assert gate.failures == 1
    # An answer to what was sent before the outage does not end it.
    gate.answered(sent[1])
    assert gate.failures == 1
    gate.answered(gate.enter("a later one", 10.0))
    assert gate.failures == 0


def test_one_lost_connection_is_no_outage(gate: Throttle) -> None:
    gate.lost(gate.enter("one", 1.0))
    gate.answered(gate.enter("another", 0.0))
    assert gate.enter("one", 0.0) == gate.enter("another", 0.0) == 0.0
    for _ in range(2):
        gate.lost(gate.enter("one", 0.0))
    assert 0.25 <= gate.enter("another", 10.0) <= 0.5


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": " 0 "}, 0.0),
        ({}, None),
        ({"Retry-After": ""}, None),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "١"}, None),
        ({"Retry-After": "9" * 400}, 999_999_999_999.0),
        (
            {"Retry-After": "Wed, 21 Oct 2026 07:28:30 GMT", "Date": "Wed, 21 Oct 2026 07:28:00 GMT"},
            30.0,
        ),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:30 GMT", "Date": "Wed, 21 Oct 2026 08:00:00 GMT"}, 0.0),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:30 GMT"}, None),
        ({"Retry-After": "Wed, 99 Oct 2026 07:28:30 GMT", "Date": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
    ],
)
def test_retry_after_in_either_form_by_the_servers_own_clock(
    headers: dict[str, str], wait_s: float | None
) -> None:
    assert retry_after_s(headers) == wait_s


def test_who_cannot_go_before_its_deadline_fails_at_once_and_says_until_when() -> None:
    clock = VirtualClock()
    door = Throttle(clock, seed=0)
    door.pushed_back(door.enter("first", 10.0), 60.0)
    with pytest.raises(UnavailableError, match=r"until 00:01:\d\d UTC, for another 6\d\.\d s"):
        door.enter("second", 10.0)
    assert clock.monotonic_s() == 0.0
    assert door.enter("third", 100.0) >= 60.0


def test_threads_that_wait_out_an_outage_go_one_by_one() -> None:
    clock = SharedClock()
    door = Throttle(clock, seed=0)
    door.pushed_back(door.enter("first", 10.0), 30.0)
    sent: list[float] = []
    lock = threading.Lock()

    def call() -> None:
        sent_s = door.enter("another", 1e6)
        with lock:
            sent.append(sent_s)
        door.answered(sent_s)
        clock.leave()

    clock.crowd([threading.Thread(target=call) for _ in range(20)])
    assert len(sent) == 20
    sent.sort()
    assert sent[0] >= 30.0
    assert all(later - earlier >= GAP_S - 1e-9 for earlier, later in pairwise(sent))
    assert sent[-1] < sent[0] + SLOW_S
