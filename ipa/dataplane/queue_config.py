"""The configuration of a stage's queue that can change while it runs, and its JSON, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import inf
from typing import Any
from urllib.parse import urlsplit

from ipa.dataplane.tensors import parse_object
from ipa.model.errors import InputError

MAX_BATCH_SIZE = 1024
MAX_REPLICAS = 1024
# Longer than requests wait that have no time budget of their own.
MAX_BATCH_TIMEOUT_S = 30.0
# By URL: the variant that a replica runs, and others.
Variants = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class QueueConfig:
    """The settings that can change while the queue runs; None keeps one.

    `replicas`: by URL the variant that each runs, and the lighter ones that it can run instead; `heavier`:
    the more accurate ones, if it has any, the next one first.
    `largest_batch_size`: the most items of a batch where more arrives than batches of `batch_size` carry.
    `profiled_s`: by variant the seconds for the first item of a batch and for each further one, as
    profiled.
    """

    batch_size: int | None = None
    largest_batch_size: int | None = None
    batch_timeout_s: float | None = None
    replicas: Variants | None = None
    profiled_s: Mapping[str, tuple[float, float]] | None = None
    heavier: Variants | None = None

    @property
    def running(self) -> dict[str, str]:
        """The variant that each replica runs, by URL."""
        return {url: variants[0] for url, variants in (self.replicas or {}).items()}

    def to_json(self) -> dict[str, Any]:
        """As `parse_config` takes it."""
        heavier = self.heavier or {}
        replicas = [
            {"url": url, "variant": first, "lighter": lighter, "heavier": [*heavier.get(url, ())]}
            for url, (first, *lighter) in (self.replicas or {}).items()
        ]
        return {
            "batch_size": self.batch_size,
            "largest_batch_size": self.largest_batch_size,
            "batch_timeout_s": self.batch_timeout_s,
            "replicas": replicas,
            "profiled_s": dict(self.profiled_s or {}),
        }


KEYS = tuple(field.name for field in fields(QueueConfig) if field.name != "heavier")


def parse_config(given: Any) -> QueueConfig:
    """Return the configuration of a JSON object; InputError says all that is wrong with it."""
    if not isinstance(given, dict):
        raise InputError("the configuration must be a JSON object")
    wrong = [f"unknown key {key!r}" for key in given.keys() - {*KEYS}]
    size, largest, timeout_s, entries, profiled = (given.get(key) for key in KEYS)
    for key, value in (("batch_size", size), ("largest_batch_size", largest)):
        if value is not None and not (type(value) is int and 1 <= value <= MAX_BATCH_SIZE):
            wrong.append(f"{key} must be a whole number from 1 to {MAX_BATCH_SIZE}")
    if timeout_s is not None and not (_is_number(timeout_s) and 0 <= timeout_s <= MAX_BATCH_TIMEOUT_S):
        wrong.append(f"batch_timeout_s must be a number from 0 to {MAX_BATCH_TIMEOUT_S:g}")
    if profiled is not None and not _is_profile(profiled):
        wrong.append("profiled_s must be [first, next] by variant, in seconds")
    replicas, heavier = (None, None) if entries is None else _parse_replicas(entries) or (None, None)
    if entries is not None and replicas is None:
        wrong.append(
            f"replicas must be a list of at most {MAX_REPLICAS} addresses like http://127.0.0.1:9000"
        )
    if wrong:
        raise InputError("; ".join(wrong))
    times = None if profiled is None else {name: (pair[0], pair[1]) for name, pair in profiled.items()}
    return QueueConfig(size, largest, timeout_s, replicas, times, heavier)


def parse_parts(text: str) -> dict[str, QueueConfig]:
    """Return the configurations of a JSON object by part; InputError: it is none of them."""
    return {part: parse_config(given) for part, given in parse_object(text.encode(), "it").items()}


def parse_profile(text: str) -> dict[str, tuple[float, float]]:
    """Return the times of VARIANT=FIRST,NEXT words; ValueError: a word is none."""
    pairs = [(name, seconds.split(",")) for name, _, seconds in (it.rpartition("=") for it in text.split())]
    return {name: (float(first), float(following)) for name, (first, following) in pairs}


def _is_number(given: Any) -> bool:
    return type(given) in (int, float)


def _is_profile(given: Any) -> bool:
    return isinstance(given, dict) and all(
        isinstance(pair, list)
        and [*map(_is_number, pair)] == [True, True]
        and 0 <= pair[1] < inf
        and 0 < pair[0] < inf
        for pair in given.values()
    )


def _parse_replicas(given: Any) -> tuple[Variants, Variants] | None:
    """The variants by URL, and the heavier ones where there are any; None if it is no list of replicas."""
    if not isinstance(given, list) or len(given) > MAX_REPLICAS:
        return None
    found: dict[str, tuple[str, ...]] = {}
    heavier: dict[str, tuple[str, ...]] = {}
    for each in given:
        entry = {"url": each} if isinstance(each, str) else each
        if not isinstance(entry, dict) or not entry.keys() <= {"url", "variant", "lighter", "heavier"}:
            return None
        url, *lists = entry.get("url"), entry.get("lighter", []), entry.get("heavier", [])
        if not isinstance(url, str) or not _is_replica(url) or not all(isinstance(it, list) for it in lists):
            return None
        names = [entry.get("variant", ""), *lists[0], *lists[1]]
        if not all(isinstance(name, str) for name in names):
            return None
        found[url] = tuple(names[: 1 + len(lists[0])])
        if lists[1]:
            heavier[url] = tuple(lists[1])
    return found, heavier


def _is_replica(url: str) -> bool:
    try:
        parts = urlsplit(url)
        has_port = parts.port != 0
    except ValueError:
        return False
    return parts.scheme == "http" and bool(parts.hostname) and has_port and not parts.path + parts.query
