"""A cache with a time to live and single flight, and a bound on the threads that wait for a fetch."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import copy
from dataclasses import dataclass, field
from typing import Generic, TypeVar, cast

from ipa.model.errors import IpaError, UnavailableError

T = TypeVar("T")
# Bounds the keys that are never asked for again, such as tokens; an entry has some hundred bytes.
MOST = 4096


@dataclass(frozen=True, slots=True)
class _Outcome(Generic[T]):
    """The answer or the error of a fetch that started at `at_s`."""

    at_s: float
    answer: T | None = None
    error: IpaError | None = None

    def result(self) -> tuple[T, float]:
        if self.error is not None:
            # If several threads raised the same object, each would add to its traceback.
            raise copy(self.error)
        return cast(T, self.answer), self.at_s


@dataclass
class _Slot(Generic[T]):
    fetching: threading.Lock = field(default_factory=threading.Lock)
    # The outcome of the last fetch, for the callers that waited for it, and the outcome for later callers.
    newest: _Outcome[T] | None = None
    cached: _Outcome[T] | None = None


class TtlCache(Generic[T]):
    """The newest answers by key, each for `life_s` or until `forget`. Thread-safe, with single flight.

    A caller that asks during a fetch waits for it, and gets its answer or its error. With `keeps_errors`
    later callers get the error too. `place` is held while a caller fetches or waits.
    """

    def __init__(
        self,
        life_s: float,
        monotonic_s: Callable[[], float],
        *,
        keeps_errors: bool = True,
        place: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._life_s, self._monotonic_s = life_s, monotonic_s
        self._keeps_errors, self._place = keeps_errors, place
        self._lock = threading.Lock()
        self._slots: OrderedDict[Hashable, _Slot[T]] = OrderedDict()

    def forget(self, key: Hashable) -> None:
        """Discard the answer: the next caller fetches it again, even if a fetch is under way."""
        with self._lock:
            self._slots.pop(key, None)

    def get(self, key: Hashable, fetch: Callable[[], T], within_s: float | None = None) -> tuple[T, float]:
        """Return the answer and the monotonic time at which its fetch started. Errors: those of `fetch`.

        `within_s` overrides `life_s`; at 0 the caller always fetches.
        """
        life_s = self._life_s if within_s is None else within_s
        with self._lock:
            slot = self._slots.setdefault(key, _Slot())
            self._slots.move_to_end(key)
            while len(self._slots) > MOST:
                self._slots.popitem(last=False)
            before, cached = slot.newest, slot.cached
        if cached is not None and self._monotonic_s() - cached.at_s < life_s:
            return cached.result()
        with self._place(), slot.fetching if life_s > 0.0 else nullcontext():
            # Another caller may have fetched it while this one waited.
            outcome = slot.newest
            if outcome is None or outcome is before or life_s <= 0.0:
                at_s = self._monotonic_s()
                try:
                    outcome = _Outcome(at_s, fetch())
                except IpaError as error:
                    outcome = _Outcome(at_s, error=error)
                slot.newest = outcome
                if outcome.error is None or self._keeps_errors:
                    slot.cached = outcome
            return outcome.result()


class LruCache(Generic[T]):
    """The `most` values that were used most recently, by key. Thread-safe."""

    def __init__(self, most: int) -> None:
        self._most, self._lock = most, threading.Lock()
        self._values: OrderedDict[Hashable, T] = OrderedDict()

    def get(self, key: Hashable) -> T | None:
        """Return the value; None if it is not cached."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: Hashable, value: T) -> None:
        """Cache the value in place of the one used longest ago."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self._most:
                self._values.popitem(last=False)


class Bulkhead:
    """A bulkhead: at most `most` threads wait for `whom` at once, others fail immediately.

    It keeps a service that does not answer from occupying every thread of this process.
    """

    def __init__(self, most: int, whom: str) -> None:
        self._places, self._whom = threading.BoundedSemaphore(most), whom

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place to wait in; UnavailableError if all are taken."""
        if not self._places.acquire(blocking=False):
            raise UnavailableError(
                f"{self._whom} has not answered other requests yet", hint="Try again in a moment."
            )
        try:
            yield
        finally:
            self._places.release()
