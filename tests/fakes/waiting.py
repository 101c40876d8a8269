"""Waiting for what another thread does."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(is_so: Callable[[], object], within_s: float = 120.0) -> None:
    """Return once it is so; AssertionError where it does not come to be."""
    end_s = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < end_s, "it did not come to be"
        time.sleep(0.005)
