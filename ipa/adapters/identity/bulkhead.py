"""A bound on the threads that wait for another service's answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ipa.model.errors import UnavailableError


class Bulkhead:
    """A bulkhead: at most `most` threads wait for `whom` at once, others fail immediately.

    A service that does not answer must not occupy every thread of this one.
    """

    def __init__(self, most: int, whom: str) -> None:
        self._places, self._whom = threading.BoundedSemaphore(most), whom

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place to wait in; UnavailableError if all are taken."""
        if not self._places.acquire(blocking=False):
            raise UnavailableError(
                f"{self._whom} has not answered other requests yet", hint="Ask again in a moment."
            )
        try:
            yield
        finally:
            self._places.release()
