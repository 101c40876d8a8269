"""Answers that several wait for are fetched once, and are there for a moment."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ipa.model.errors import IpaError

T = TypeVar("T")
# Of those that nobody will ask for again.
MOST = 4096


@dataclass
class _Entry(Generic[T]):
    lock: threading.Lock = field(default_factory=threading.Lock)
    at_s: float | None = None
    answer: T | None = None
    error: IpaError | None = None


class Shared(Generic[T]):
    """The newest answers by key, each for `life_s` or until `forget`. Thread-safe; an error is an answer too.

    Who asks while another fetches the same waits for that, so what does not answer is waited for once.
    """

    def __init__(self, life_s: float, monotonic_s: Callable[[], float]) -> None:
        self._life_s, self._monotonic_s = life_s, monotonic_s
        self._lock = threading.Lock()
        self._entries: dict[Hashable, _Entry[T]] = {}

    def forget(self, key: Hashable) -> None:
        """Have the answer fetched anew, also where one is on its way."""
        with self._lock:
            self._entries.pop(key, None)

    def get(self, key: Hashable, fetch: Callable[[], T]) -> tuple[T, float]:
        """The answer, and when it was fetched (monotonic); errors of `fetch` are raised."""
        with self._lock:
            entry = self._entries.pop(key, None) or _Entry()
            # The last that was asked for is the last to go.
            self._entries[key] = entry
            while len(self._entries) > MOST:
                del self._entries[next(iter(self._entries))]
        with entry.lock:
            now_s = self._monotonic_s()
            if entry.at_s is None or now_s - entry.at_s >= self._life_s:
                entry.at_s, entry.answer, entry.error = now_s, None, None
                try:
                    entry.answer = fetch()
                except IpaError as error:
                    entry.error = error
            if entry.error is not None:
                raise type(entry.error)(entry.error.message)
            assert entry.answer is not None
            return entry.answer, entry.at_s
