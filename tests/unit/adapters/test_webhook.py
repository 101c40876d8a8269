"""The webhook over real sockets: what it sends, how it is signed, and what it does where it is not taken."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from ipa.adapters.store import Store, open_store
from ipa.adapters.webhook import webhook as module
from ipa.adapters.webhook.guarded import Sender
from ipa.adapters.webhook.message import secret_of, signature
from ipa.adapters.webhook.webhook import Receiver as Told
from ipa.adapters.webhook.webhook import Webhook
from ipa.bootstrap.webhooks import webhook_of
from ipa.control.audit.feed import RecordFeed
from ipa.control.ports import AlwaysLeading, Attribution, ControlAction, PipelineControl
from ipa.model.decision import Action, ReasonCode
from ipa.model.errors import ConfigurationError
from ipa.settings import Settings
from tests.contract.store_harness import a_decision
from tests.fakes.receiver import KEY, SECRET, Receiver, answer, endless_body, endless_headers
from tests.fakes.waiting import until

Start = Callable[..., Webhook]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes back at once."""
    monkeypatch.setattr(module, "BACKOFF", module.Backoff(first_s=0.01, longest_s=0.02))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_store(f"sqlite:///{tmp_path}/s.sqlite3")
    yield store
    store.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def start(store: Store, receiver: Receiver) -> Iterator[Start]:
    with ExitStack() as started:

        def begin(
            *, timeout_s: float = 5.0, leading: Callable[[], bool] = lambda: True, **told: object
        ) -> Webhook:
            webhook = Webhook(
                RecordFeed(store, time.monotonic, poll_s=0.01),
                store,
                Sender(receiver.url, timeout_s=timeout_s, private=True),
                replace(Told("/ipa/test", KEY), **told),  # type: ignore[arg-type]
                leading=leading,
            )
            webhook.start()
            started.callback(webhook.close)
            if leading():
                until(lambda: store.cursor(module.CURSOR) is not None)
            return webhook

        yield begin


def test_a_signature_is_that_of_the_specification() -> None:
    """What standardwebhooks 1.1.0 from PyPI makes of the same."""
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLasw")
    found = signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert found == "v1,V5xCPQDdTB0l0m2VMsjB/ZVwuDV5WIe462vC5sKC8ds="


def test_events_are_signed_cloudevents_in_the_order_of_the_record(
    store: Store, receiver: Receiver, start: Start
) -> None:
    store.record(a_decision(1))  # before it was there
    webhook = start()
    store.record(a_decision(2, action=Action.APPLY))
    store.set_control("ocr", PipelineControl(paused=True), Attribution(ControlAction.PAUSE, "kim", "release"))
    until(lambda: webhook.delivered == 2)
    first, second = receiver.posts
    assert first.is_signed() and second.is_signed()
    assert not first.is_signed(b"another")
    assert abs(int(first.headers["webhook-timestamp"]) - time.time()) < 60
    assert first.headers["content-type"].startswith("application/cloudevents+json")
    event = first.event
    assert {key: event[key] for key in ("specversion", "source", "type", "subject", "datacontenttype")} == {
        "specversion": "1.0",
        "source": "/ipa/test",
        "type": "dev.ipa.decision",
        "subject": "ocr",
        "datacontenttype": "application/json",
    }
    assert datetime.fromisoformat(event["time"]).tzinfo is not None
    kept = store.entries(1, 1)[0]
    assert event["id"] == first.headers["webhook-id"] == f"2-{kept.digest[:16]}"
    assert event["data"] == {"entry": kept.values, "digest": kept.digest}
    assert second.event["data"]["entry"]["by"] == "kim"


def test_of_holds_only_the_first_of_a_reason_is_told(store: Store, receiver: Receiver, start: Start) -> None:
    webhook = start()
    for tick in range(1, 5):
        store.record(a_decision(tick))
    store.record(replace(a_decision(5), reason=ReasonCode.METRICS_STALE))
    store.record(a_decision(6, action=Action.APPLY))
    store.record(a_decision(7, action=Action.APPLY))
    until(lambda: webhook.delivered == 4)
    assert [post.event["data"]["entry"]["decision_id"] for post in receiver.posts] == [
        "ocr-1", "ocr-5", "ocr-6", "ocr-7",
    ]  # fmt: skip


def test_all_holds_where_asked_for(store: Store, receiver: Receiver, start: Start) -> None:
    webhook = start(only_changes=False)
    for tick in range(1, 5):
        store.record(a_decision(tick))
    until(lambda: webhook.delivered == 4)


def test_it_tries_again_with_the_same_id_and_a_new_time(
    store: Store, receiver: Receiver, start: Start
) -> None:
    receiver.script = [answer(503), answer(500), answer(429)]
    webhook = start()
    store.record(a_decision(1))
    until(lambda: webhook.delivered == 1)
    assert len({post.headers["webhook-id"] for post in receiver.posts}) == 1
    assert len({post.body for post in receiver.posts}) == 1
    assert all(post.is_signed() for post in receiver.posts)
    assert (webhook.failed, webhook.dropped, webhook.waiting) == (3, 0, 0)


def test_it_waits_as_long_as_it_is_asked_to(
    store: Store, receiver: Receiver, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float | None] = []
    real = Webhook._later
    monkeypatch.setattr(
        Webhook, "_later", lambda self, why, asked_s: (asked.append(asked_s), real(self, why, asked_s))[1]
    )
    receiver.script = [answer(503, Retry_After="3600")]
    webhook = start()
    store.record(a_decision(1))
    until(lambda: asked)
    assert asked == [3600.0]
    assert webhook._not_before_s - time.monotonic() > 3500
    assert len(receiver.posts) == 1


def test_what_it_refuses_is_given_up_and_the_next_is_told(
    store: Store, receiver: Receiver, start: Start
) -> None:
    receiver.script = [answer(400)] * module.MOST_REFUSALS
    webhook = start(only_changes=False)
    store.record(a_decision(1))
    store.record(a_decision(2))
    until(lambda: webhook.delivered == 1)
    assert (webhook.dropped, receiver.posts[-1].event["data"]["entry"]["decision_id"]) == (1, "ocr-2")


def test_it_follows_no_redirect(store: Store, receiver: Receiver, start: Start) -> None:
    receiver.script = [answer(302, Location=f"{receiver.url}/elsewhere")]
    webhook = start()
    store.record(a_decision(1))
    until(lambda: webhook.delivered == 1)
    assert [post.path for post in receiver.posts] == ["/hook", "/hook"]


@pytest.mark.parametrize("hostile", [endless_headers, "silence"])
def test_a_hostile_answer_ends_in_time(
    store: Store, receiver: Receiver, start: Start, hostile: object
) -> None:
    receiver.script = [receiver.silence if hostile == "silence" else hostile]  # type: ignore[list-item]
    webhook = start(timeout_s=0.3)
    store.record(a_decision(1))
    until(lambda: webhook.delivered == 1)
    assert (webhook.failed, len(receiver.posts)) == (1, 2)


def test_an_endless_answer_is_not_read(store: Store, receiver: Receiver, start: Start) -> None:
    receiver.script = [endless_body]
    webhook = start()
    store.record(a_decision(1))
    until(lambda: webhook.delivered == 1)
    assert webhook.failed == 0


def test_after_a_restart_it_goes_on_where_it_was(store: Store, receiver: Receiver, start: Start) -> None:
    first = start(only_changes=False)
    store.record(a_decision(1))
    until(lambda: first.delivered == 1)
    first.close()
    store.record(a_decision(2))
    second = start(only_changes=False)
    until(lambda: second.delivered == 1)
    assert [post.event["data"]["entry"]["decision_id"] for post in receiver.posts] == ["ocr-1", "ocr-2"]


def test_a_standby_tells_nothing_and_goes_on_where_the_leader_was(
    store: Store, receiver: Receiver, start: Start
) -> None:
    leads = [True, False]
    first = start(leading=lambda: leads[0], only_changes=False)
    second = start(leading=lambda: leads[1], only_changes=False)
    store.record(a_decision(1))
    until(lambda: store.cursor(module.CURSOR) == 1)
    leads[:] = [False, True]
    store.record(a_decision(2))
    until(lambda: second.delivered == 1)
    assert [post.event["data"]["entry"]["decision_id"] for post in receiver.posts] == ["ocr-1", "ocr-2"]
    assert first.delivered == 1


def test_what_is_too_long_ago_is_counted_not_told(
    store: Store, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.set_cursor(module.CURSOR, 0)
    for tick in range(1, 6):
        store.record(a_decision(tick))
    feed = RecordFeed(store, time.monotonic, poll_s=0.01, kept=4)
    webhook = Webhook(feed, store, Sender(receiver.url, timeout_s=5.0, private=True), Told("/ipa", KEY))
    webhook.start()
    until(lambda: webhook.dropped == 5)
    webhook.close()
    assert receiver.posts == []


def settings(**given: object) -> Settings:
    return replace(Settings(webhook_url="https://hooks.example/ipa", webhook_secret=SECRET), **given)  # type: ignore[arg-type]


def made(store: Store, settings: Settings) -> Webhook | None:
    return webhook_of(settings, store, RecordFeed(store, time.monotonic), AlwaysLeading())


def test_the_settings_make_one(store: Store, tmp_path: Path) -> None:
    assert made(store, Settings()) is None
    assert made(store, settings()) is not None
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    assert made(store, settings(webhook_secret="", webhook_secret_file=str(tmp_path / "secret"))) is not None


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"webhook_url": "file:///etc/passwd"}, "neither http nor https"),
        ({"webhook_url": "gopher://x"}, "neither http nor https"),
        ({"webhook_url": "https:///x"}, "names no host"),
        ({"webhook_url": "https://kim:pass@x/"}, "password"),
        ({"webhook_url": "https://x:port/"}, "cannot be read"),
        ({"webhook_secret": ""}, "missing, or is in both"),
        ({"webhook_secret_file": "/x"}, "missing, or is in both"),
        ({"webhook_secret": "", "webhook_secret_file": "/nothing/here"}, "does not exist"),
        ({"webhook_secret": "hunter2hunter2hunter2hunter2"}, "whsec_"),
        ({"webhook_secret": "whsec_äöü"}, "not base64"),
        ({"webhook_secret": "whsec_aHVudGVyMg=="}, "7 bytes"),
    ],
)
def test_settings_that_cannot_be_used_are_named_without_the_secret(
    store: Store, given: dict[str, object], word: str
) -> None:
    with pytest.raises(ConfigurationError, match=word) as caught:
        made(store, settings(**given))
    assert "hunter2" not in str(caught.value) and "aHVudGVyMg" not in str(caught.value)


def test_a_secret_is_in_no_words() -> None:
    assert SECRET not in repr(settings()) and SECRET not in str(settings())
    assert secret_of(SECRET) == KEY
