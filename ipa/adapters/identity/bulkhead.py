"""A bound on the threads that wait for somebody else's answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ipa.model.errors import UnavailableError


class Bulkhead:
    """Lets `most` threads wait for `whom` at once, and fails at once for the others.

    One that does not answer must not take every thread that could answer somebody else.
    """

    def __init__(self, most: int, whom: str) -> None:
        self._places, self._whom = threading.BoundedSemaphore(most), whom

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place to wait in; UnavailableError where there is none."""
        if not self._places.acquire(blocking=False):
            raise UnavailableError(
                f"{self._whom} has not answered others who wait", hint="Ask again in a moment."
            )
        try:
            yield
        finally:
            self._places.release()
