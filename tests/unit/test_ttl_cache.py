"""Answers that are fetched once for several, until they are old or forgotten."""

from __future__ import annotations

import pytest

from ipa.adapters.ttl_cache import Shared
from ipa.model.errors import UnavailableError


def test_an_answer_is_fetched_again_once_it_is_old_or_forgotten() -> None:
    at_s, fetched = 0.0, 0

    def fetch() -> int:
        nonlocal fetched
        fetched += 1
        return fetched

    shared: Shared[int] = Shared(1.0, lambda: at_s)
    assert [shared.get("a", fetch), shared.get("a", fetch)] == [(1, 0.0)] * 2
    at_s = 0.5
    shared.forget("a")
    assert shared.get("a", fetch) == (2, 0.5)
    at_s = 1.5
    assert shared.get("a", fetch) == (3, 1.5)


def test_what_is_forgotten_while_it_is_fetched_is_fetched_again() -> None:
    shared: Shared[str] = Shared(1.0, lambda: 0.0)

    def before() -> str:
        # Somebody says something while what was said before is read.
        shared.forget("a")
        return "before"

    assert shared.get("a", before) == ("before", 0.0)
    assert shared.get("a", lambda: "after") == ("after", 0.0)


def test_an_error_is_an_answer_too() -> None:
    at_s = 0.0
    shared: Shared[str] = Shared(1.0, lambda: at_s)

    def fails() -> str:
        raise UnavailableError("the server is gone")

    for fetch in (fails, lambda: "not asked"):
        with pytest.raises(UnavailableError, match="the server is gone"):
            shared.get("a", fetch)
    at_s = 1.0
    assert shared.get("a", lambda: "again") == ("again", 1.0)
