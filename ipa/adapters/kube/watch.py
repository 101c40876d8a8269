"""Watches objects and the Deployments that they own, so that a change is looked at when it happens.

The control loop does not depend on it: what a watch misses, the next tick reads.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ipa.adapters.kube import watch_state
from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.events import KubeEvents
from ipa.adapters.kube.kinds import DEPLOYMENT, ResourceKind
from ipa.adapters.kube.responses import ExpiredError, Json
from ipa.adapters.kube.transport import Stream
from ipa.control.ports import Clock
from ipa.metering import table
from ipa.metering.make import Figures
from ipa.model.errors import ForbiddenError, IpaError

log = logging.getLogger("ipa.kube")

# The server is asked to end a watch after so long, so that one that is silent for longer is known to be dead.
WATCH_S = 30.0
# A role that allows no watch is not asked again and again.
FORBIDDEN_S = 600.0

OnChange = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Feed:
    """One kind of object in one namespace: how to list and watch it, and what to see in it."""

    kind: ResourceKind
    namespace: str
    client: KubeClient
    sight: watch_state.Sight

    @property
    def what(self) -> str:
        """Its kind in the plural, as in logs and metrics."""
        return f"{self.kind.kind}s"

    @property
    def place(self) -> tuple[str, str]:
        """Its namespace and kind, as in the labels of metrics."""
        return self.namespace, self.what

    def list_all(self) -> tuple[list[Json], str]:
        """The objects, and the version from which to watch them."""
        return self.client.list_all(self.kind, self.namespace)

    def watch(self, version: str, watch_s: float) -> Stream:
        """The changes from that version on."""
        return self.client.watch(self.kind, self.namespace, version, watch_s)


def feeds(client: KubeClient, namespace: str, kind: ResourceKind) -> tuple[Feed, ...]:
    """The feeds of a namespace: its objects of that kind, and the Deployments that they own."""
    return (
        Feed(kind, namespace, client, watch_state.spec_of),
        Feed(DEPLOYMENT, namespace, client, watch_state.owned_by(kind.kind)),
    )


class Watcher:
    """Calls `on_change(namespace, name)` when an object's spec changed or a part of it got worse.

    `run` it in a thread. It never ends by a failure: it lists again and goes on.
    """

    def __init__(
        self,
        feed: Feed,
        on_change: OnChange,
        clock: Clock,
        *,
        watch_s: float = WATCH_S,
        seed: int | None = None,
    ) -> None:
        self.feed = feed
        self.lists, self.failures = 0, 0
        self._on_change, self._clock, self._watch_s = on_change, clock, watch_s
        self._random = random.Random(seed)
        self._state = watch_state.Following()
        self._lock = threading.Lock()
        self._stream: Stream | None = None
        self._closed = False

    def run(self) -> None:
        """List and watch until it is closed."""
        while not self._closed:
            self.step()

    def close(self) -> None:
        """Let `run` end soon, from any thread. The clock's wait is to be ended by whoever owns the clock."""
        with self._lock:
            self._closed = True
            stream = self._stream
        if stream is not None:
            stream.close()

    def step(self) -> None:
        """One list, or one watch to its end; then the wait that is due after it."""
        began_s = self._clock.monotonic_s()
        forbidden_s = 0.0
        try:
            if self._state.must_list:
                self._list()
            else:
                self._watch()
                if not self._state.must_list:
                    self._state = watch_state.ended(self._state, self._clock.monotonic_s() - began_s)
        except ExpiredError:
            self._state = watch_state.failed(self._state)
        except ForbiddenError as error:
            self._fail(error)
            forbidden_s = FORBIDDEN_S
        except IpaError as error:
            self._fail(error)
        except Exception:
            # An answer that no API server gives must not end the watch either.
            log.exception("watch of %s of %s failed", self.feed.what, self.feed.namespace)
            self._state = watch_state.failed(self._state)
        wait_s = max(forbidden_s, self._state.delay_s(self._random.random()))
        if wait_s > 0.0 and not self._closed:
            self._clock.wait(wait_s)

    def _list(self) -> None:
        items, version = self.feed.list_all()
        self.lists += 1
        step = watch_state.listed(self._state, items, version, self.feed.sight)
        self._state = step.state
        self._tell(step.news)

    def _watch(self) -> None:
        stream = self.feed.watch(self._state.version, self._watch_s)
        with self._lock:
            self._stream = stream
            if self._closed:
                return
        for event in stream:
            step = watch_state.heard(self._state, event, self.feed.sight)
            self._state = step.state
            self._tell(step.news)
            if self._state.must_list:
                return

    def _fail(self, error: IpaError) -> None:
        if self._closed:
            return
        self.failures += 1
        # Once a failure begins, not each time it goes on.
        level = logging.WARNING if self._state.failures == 0 else logging.DEBUG
        log.log(level, "watch of %s of %s: %s", self.feed.what, self.feed.namespace, error.message)
        self._state = watch_state.failed(self._state)

    def _tell(self, names: frozenset[str]) -> None:
        for name in sorted(names):
            try:
                self._on_change(self.feed.namespace, name)
            except Exception:
                # A fault of who listens must not end the watch.
                log.exception("change of %s/%s could not be told", self.feed.namespace, name)


class AtMost:
    """Lets a call through at most once in `gap_s` for each name; the others are left to the next tick."""

    def __init__(self, act: Callable[[str], None], gap_s: float, clock: Clock) -> None:
        self._act, self._gap_s, self._clock = act, gap_s, clock
        self._lock = threading.Lock()
        self._last_s: dict[str, float] = {}

    def __call__(self, name: str) -> None:
        now_s = self._clock.monotonic_s()
        with self._lock:
            last_s = self._last_s.get(name)
            if last_s is not None and now_s - last_s < self._gap_s:
                return
            self._last_s[name] = now_s
        self._act(name)


def health_figures(client: KubeClient, events: KubeEvents, watchers: Sequence[Watcher]) -> Figures:
    """Return the metrics of the clock, the watches and the Events; more watches may come while it runs."""
    return Figures(
        (table.KUBE_SKEW, lambda: [] if (skew_s := client.skew_s) is None else skew_s),
        (table.KUBE_LISTS, lambda: [(each.feed.place, each.lists) for each in list(watchers)]),
        (table.KUBE_FAILURES, lambda: [(each.feed.place, each.failures) for each in list(watchers)]),
        (table.KUBE_EVENTS_DROPPED, lambda: events.dropped),
    )
