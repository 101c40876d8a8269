"""The number of instances tests try: as many as show it, and more of them where IPA_TEST_TIMES says so."""

from __future__ import annotations

import os

TIMES = float(os.environ.get("IPA_TEST_TIMES", "1"))


def many(count: int) -> int:
    """The number of instances: `count`, or IPA_TEST_TIMES as many."""
    return max(1, round(count * TIMES))
