"""Waiting for what another thread does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(look: Callable[[], T], within_s: float = 120.0, every_s: float = 0.005) -> T:
    """Return what is seen once it is true; AssertionError where it does not come to be."""
    end_s = time.monotonic() + within_s
    while not (seen := look()):
        assert time.monotonic() < end_s, f"it did not come to be within {within_s:g} s"
        time.sleep(every_s)
    return seen
