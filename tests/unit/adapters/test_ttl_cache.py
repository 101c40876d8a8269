"""Answers that are fetched once for several, until they are old or forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event, Semaphore

import pytest

from ipa.adapters.ttl_cache import Bulkhead, TtlCache
from ipa.model.errors import UnavailableError


def test_an_answer_is_fetched_again_once_it_is_old_or_forgotten() -> None:
    at_s, fetched = 0.0, 0

    def fetch() -> int:
        nonlocal fetched
        fetched += 1
        return fetched

    cache: TtlCache[int] = TtlCache(1.0, lambda: at_s)
    assert [cache.get("a", fetch), cache.get("a", fetch)] == [(1, 0.0)] * 2
    at_s = 0.5
    cache.forget("a")
    assert cache.get("a", fetch) == (2, 0.5)
    at_s = 1.5
    assert cache.get("a", fetch) == (3, 1.5)


def test_what_is_forgotten_while_it_is_fetched_is_fetched_again() -> None:
    cache: TtlCache[str] = TtlCache(1.0, lambda: 0.0)

    def before() -> str:
        # Somebody says something while what was said before is read.
        cache.forget("a")
        return "before"

    assert cache.get("a", before) == ("before", 0.0)
    assert cache.get("a", lambda: "after") == ("after", 0.0)


def test_an_error_is_an_answer_too() -> None:
    at_s = 0.0
    cache: TtlCache[str] = TtlCache(1.0, lambda: at_s)

    def fails() -> str:
        raise UnavailableError("the server is gone")

    for fetch in (fails, lambda: "not asked"):
        with pytest.raises(UnavailableError, match="the server is gone"):
            cache.get("a", fetch)
    at_s = 1.0
    assert cache.get("a", lambda: "again") == ("again", 1.0)


def test_an_error_is_shared_by_those_who_wait_and_kept_if_asked_for() -> None:
    fetches, go_on, waiting = 0, Event(), Semaphore(0)

    def fails() -> str:
        nonlocal fetches
        fetches += 1
        assert go_on.wait(10.0)
        raise UnavailableError("the server is gone", hint="Start it.")

    @contextmanager
    def place() -> Iterator[None]:
        waiting.release()
        yield

    cache: TtlCache[str] = TtlCache(60.0, lambda: 0.0, keeps_errors=False, place=place)
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(cache.get, "a", fails) for _ in range(8)]
        for _ in range(8):
            assert waiting.acquire(timeout=300)
        go_on.set()
        errors = [each.exception(10.0) for each in answers]
    assert {getattr(error, "hint", "") for error in errors} == {"Start it."}
    assert fetches == 1
    assert cache.get("a", lambda: "again") == ("again", 0.0)


def test_a_caller_may_want_a_newer_answer_than_others() -> None:
    at_s, answers = 0.0, iter(range(9))
    cache: TtlCache[int] = TtlCache(60.0, lambda: at_s)
    assert cache.get("a", lambda: next(answers)) == (0, 0.0)
    at_s = 2.0
    assert cache.get("a", lambda: next(answers)) == (0, 0.0)
    assert cache.get("a", lambda: next(answers), 1.0) == (1, 2.0)
    assert cache.get("a", lambda: next(answers), 0.0) == (2, 2.0)


def test_a_caller_without_a_place_fails_but_for_what_is_kept() -> None:
    few = Bulkhead(1, "the server")
    cache: TtlCache[str] = TtlCache(60.0, lambda: 0.0, place=few.place)
    cache.get("a", lambda: "kept")
    with few.place():
        assert cache.get("a", lambda: "not asked") == ("kept", 0.0)
        with pytest.raises(UnavailableError, match="has not answered other requests"):
            cache.get("b", lambda: "not asked")
