"""The replicas of a stage: selection for the next batch, and detection of replicas that hang."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import truediv
from typing import Any

from ipa.model.profile import time_per_item

# A replica that broke a connection gets no batch for this long; a dead one is replaced within seconds.
BACKOFF_S = 0.2
# The service time is judged by this many last batches.
REMEMBERED_BATCHES = 20
# A batch counts for this long, and for three times its own duration: if all requests are refused because the
# last batches were slow, no batch would correct that.
REMEMBERED_S = 2.0
# What a quicker variant can stand in for is judged for longer: to try it costs requests their deadline.
REMEMBERED_SLOW_S = 20.0
# Rank of the usual service time: all but the slowest seventh of the batches take no longer.
USUAL_RATIO = 6 / 7
# All but the slowest of those that are remembered.
SURE_RATIO = 0.95
MEDIAN_RATIO = 0.5
# A replica is suspected once its batch takes this many times as long as the slowest of its last ones: a busy
# machine slows it by less. Never before 2 s: a machine may stop for a second.
SUSPECT_FACTOR = 10.0
SUSPECT_AFTER_S = 2.0
# The first batch of a replica may compile, load or train.
FIRST_SUSPECT_AFTER_S = 30.0
# Larger batches are worth their longer service if each item takes at most this part of the time.
SAVED_RATIO = 0.9
# A variant that was never observed may be this much quicker than its profile.
UNSEEN_RATIO = 0.5
# The variants of a replica of which only the address is known.
UNKNOWN_VARIANTS = ("",)
# Without a profile each item of a batch takes as much as the first.
ALL_ALIKE = (1.0, 1.0)
NOTHING: Mapping[str, Any] = {}


@dataclass(slots=True)
class ModelServer:
    """A replica: its batches in flight, the time of its last batch, and the end of its back-off.

    `variants` are the one that it runs (empty if unknown) and those that it can run instead: the same one in
    larger batches, then lighter ones, the most accurate first. A level is an index into them; levels below 0
    are the `heavier` ones, of which −1 is the next more accurate.
    """

    url: str
    variants: tuple[str, ...] = UNKNOWN_VARIANTS
    heavier: tuple[str, ...] = ()
    in_flight: int = 0
    last_used: int = 0
    down_until_s: float = 0.0
    given_s: float = 0.0
    given_items: int = 1
    given_level: int = 0
    given_variant: str = ""
    # The time of its batch in that of the variant that it is to run, by profile, if it has a heavier one.
    given_ratio: float = 1.0
    # Items and service time of its last batches at level 0.
    served: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=REMEMBERED_BATCHES))

    @property
    def patience_s(self) -> float:
        """The time that a batch may take before its replica is suspected to hang.

        A batch of n times the items may take n times as long; a heavier variant's, as its profile says.
        """
        if not self.served:
            return FIRST_SUSPECT_AFTER_S
        # A copy: the thread that answers scrapes reads it too.
        served = tuple(self.served)
        usual_s = max(took_s * max(1.0, self.given_items / items) for items, took_s in served)
        return max(SUSPECT_AFTER_S, SUSPECT_FACTOR * usual_s * self.given_ratio)

    @property
    def label(self) -> str:
        """The name of the replica in errors, with the variant of its batch."""
        return f"variant {self.given_variant!r}" if self.given_variant else f"replica {self.url}"


def at_level(variants: tuple[str, ...], heavier: tuple[str, ...], wanted: int) -> tuple[int, str]:
    """The existing level nearest to `wanted`, and its variant."""
    level = max(-len(heavier), min(wanted, len(variants) - 1))
    return level, heavier[-level - 1] if level < 0 else variants[level]


class ServiceTimes:
    """The service times of one variant's last batches: a time per batch, and a time per item.

    `first` and `more` are the profiled times of the first item and of each further one, in any unit: they
    extrapolate from observed batch sizes to others.
    """

    def __init__(self, first: float, more: float) -> None:
        self._first, self._more = first, more
        # End, items, and service time.
        self._last: deque[tuple[float, int, float]] = deque(maxlen=REMEMBERED_BATCHES)
        # Read several times with each request, and changed once with each batch.
        self._sorted_s: list[float] = []
        self._item_s = self._least_item_s = 0.0
        # Of the largest batch that is remembered.
        self.most_items = 0
        # True if those that are remembered differ in size.
        self.is_spread = False

    def add(self, now_s: float, items: int, service_s: float) -> None:
        """Record a batch that ends now."""
        self._last.append((now_s, items, service_s))
        self._fit()

    def at_ratio(self, ratio: float, now_s: float, remembered_s: float, items: int) -> float:
        """The quantile `ratio` of the last batches' time for this many items (1: the longest); 0 without any.

        The profile extrapolates to a batch of more items than any of them had.
        """
        while self._last and now_s - self._last[0][0] > max(remembered_s, 3 * self._last[0][2]):
            self._last.popleft()
        if len(self._last) < len(self._sorted_s):
            self._fit()
        if not self._sorted_s:
            return 0.0
        known = min(items, self.most_items)
        at_s = self._sorted_s[int(ratio * (len(self._sorted_s) - 1))] + self._item_s * known
        at_s = max(at_s, self._least_item_s * known)
        return at_s if items == known else at_s * self.profiled(items) / self.profiled(known)

    def profiled(self, items: float) -> float:
        """The time of a batch by its profile."""
        return self._first + self._more * (items - 1)

    def _fit(self) -> None:
        """Fit the time per item by least squares, and sort the rest of each batch's time."""
        if not self._last:
            self._sorted_s, self.most_items = [], 0
            return
        _, items, times_s = zip(*self._last, strict=True)
        self.most_items = max(items)
        item_s = time_per_item([*zip(items, times_s, strict=True)])
        self.is_spread = item_s is not None
        if item_s is None:
            mean_s = sum(times_s) / len(times_s)
            item_s = min(mean_s * self._more / self.profiled(self.most_items), mean_s / self.most_items)
        self._item_s = item_s
        self._least_item_s = min(map(truediv, times_s, items))
        self._sorted_s = sorted([took_s - item_s * of for took_s, of in zip(times_s, items, strict=True)])


class ModelServers:
    """The replicas of a stage, by URL. A replica that is removed drains: it finishes its batch."""

    def __init__(
        self,
        variants: Mapping[str, tuple[str, ...]],
        profiled_s: Mapping[str, tuple[float, float]] = NOTHING,
        heavier: Mapping[str, tuple[str, ...]] = NOTHING,
    ) -> None:
        self._profiled_s: Mapping[str, tuple[float, float]] = {}
        self._active: dict[str, ModelServer] = {}
        self._draining: dict[str, ModelServer] = {}
        self._uses = 0
        self._services: dict[str, ServiceTimes] = {}
        # The variant of the last batch, and the quickest one.
        self._last_variant = self._quickest = ""
        self.configure(variants, profiled_s, heavier)

    def configure(
        self,
        variants: Mapping[str, tuple[str, ...]],
        profiled_s: Mapping[str, tuple[float, float]] = NOTHING,
        heavier: Mapping[str, tuple[str, ...]] = NOTHING,
    ) -> None:
        """Set the replicas with their variants, and the profiled times; all other replicas drain.

        Service times are discarded if the profile differs, as on other cores, and with the replicas if no
        profile says how they differ.
        """
        if profiled_s != self._profiled_s or (not profiled_s and variants.keys() != self._active.keys()):
            self._profiled_s = profiled_s
            self._services.clear()
            self._last_variant = ""
        if variants.keys() != self._active.keys():
            known = self._active | self._draining
            self._active = {url: known.get(url) or ModelServer(url, names) for url, names in variants.items()}
            self._draining = {url: it for url, it in known.items() if url not in variants and it.in_flight}
        for url, it in self._active.items():
            if it.variants[0] != variants[url][0]:
                it.served.clear()
            it.variants, it.heavier = variants[url], heavier.get(url, ())
        # The variants of the replicas with the most levels, from 0 on and below.
        servers = self._active.values()
        self._variants = max((it.variants for it in servers), key=len, default=UNKNOWN_VARIANTS)
        self._heavier = max((it.heavier for it in servers), key=len, default=())
        # The number of levels from 0 on, 1 without lighter variants, and below 0.
        self.levels, self.heavier_levels = len(self._variants), len(self._heavier)
        if self._quickest not in self._variants:
            self._quickest = self._variants[-1]

    def least_s(self, now_s: float) -> float:
        """The least time of a single item in the last batches of any variant; 0 if one is unknown."""
        return min(
            self._times(variant).at_ratio(0.0, now_s, self._remembered_s(variant), 1)
            or UNSEEN_RATIO * self._expected_s(0.0, now_s, 1, variant)
            for variant in self._variants
        )

    def usual_s(self, now_s: float, items: int, level: int = 0) -> float:
        """The time that most recent batches of the level's variant take for this many items; 0 without any.

        If a lighter level exists, the time that nearly all of them take at most.
        """
        _, variant = at_level(self._variants, self._heavier, level)
        ratio = USUAL_RATIO if variant == self._quickest else SURE_RATIO
        return self._service_s(ratio, now_s, items, variant, self._remembered_s(variant))

    def median_s(self, now_s: float, items: int, level: int) -> float:
        """The time that half of the recent batches of the level's variant take at most; 0 without any."""
        _, variant = at_level(self._variants, self._heavier, level)
        return self._service_s(MEDIAN_RATIO, now_s, items, variant, self._remembered_s(variant))

    def saves(self, now_s: float, items: int, more: int, level: int = 0) -> bool:
        """True if a batch of `more` items takes less time per item than `items` do, or if that is unknown.

        The profile decides until batches of several sizes were observed.
        """
        _, variant = at_level(self._variants, self._heavier, level)
        known = self._times(variant)
        if known.most_items <= items or not known.is_spread:
            if variant not in self._profiled_s:
                return True
            return known.profiled(more) / more <= SAVED_RATIO * known.profiled(items) / items
        one_s, other_s = self.usual_s(now_s, items, level) / items, self.usual_s(now_s, more, level) / more
        return other_s <= SAVED_RATIO * one_s

    def _service_s(self, ratio: float, now_s: float, items: int, variant: str, remembered_s: float) -> float:
        """The quantile `ratio` of the variant's service time: observed, else profiled; 0 if unknown."""
        observed_s = self._times(variant).at_ratio(ratio, now_s, remembered_s, items)
        return observed_s or self._expected_s(ratio, now_s, items, variant)

    def _remembered_s(self, variant: str) -> float:
        return REMEMBERED_S if variant == self._quickest else REMEMBERED_SLOW_S

    def _expected_s(self, ratio: float, now_s: float, items: int, variant: str) -> float:
        """The profiled time, corrected by the last observed variant's error; 0 if it is unknown."""
        if variant not in self._profiled_s or self._last_variant not in self._profiled_s:
            return 0.0
        own, other = self._times(variant), self._times(self._last_variant)
        took_s = other.at_ratio(ratio, now_s, REMEMBERED_SLOW_S, items)
        return took_s * own.profiled(items) / other.profiled(items)

    def _times(self, variant: str) -> ServiceTimes:
        """The service times of the variant."""
        if variant not in self._services:
            self._services[variant] = ServiceTimes(*self._profiled_s.get(variant, ALL_ALIKE))
        return self._services[variant]

    def begin_s(self, now_s: float, batches: int, items: int, level: int = 0) -> float:
        """The usual time at which a batch begins at that level after `batches` batches of this many items.

        `now_s` without any replica.
        """
        free_s = sorted(self._free_s(it, now_s) for it in self._active.values())
        if not free_s:
            return now_s
        rounds, place = divmod(batches, len(free_s))
        return free_s[place] + (rounds * self.usual_s(now_s, items, level) if rounds else 0.0)

    def _free_s(self, replica: ModelServer, now_s: float) -> float:
        if not replica.in_flight:
            return max(now_s, replica.down_until_s)
        # Before a switch its batch was given to another variant.
        variant, items = replica.given_variant, replica.given_items
        usual_s = self._service_s(USUAL_RATIO, now_s, items, variant, self._remembered_s(variant))
        # A batch that takes longer than usual is expected to take as long again.
        return now_s + (usual_s - (now_s - replica.given_s) % usual_s if usual_s > 0 else 0.0)

    def __len__(self) -> int:
        """The number of replicas that accept batches."""
        return len(self._active)

    def idle(self, now_s: float) -> list[ModelServer]:
        """The replicas that can take a batch now."""
        return [it for it in self._active.values() if not it.in_flight and it.down_until_s <= now_s]

    def acquire(self, now_s: float, items: int, level: int = 0) -> ModelServer:
        """Return the replica for the next batch at that level: the idle one that was unused longest.

        A replica must be `idle`.
        """
        chosen = min(self.idle(now_s), key=lambda replica: replica.last_used)
        self._uses += 1
        chosen.in_flight += 1
        chosen.last_used = self._uses
        chosen.given_s, chosen.given_items = now_s, items
        chosen.given_level, chosen.given_variant = at_level(chosen.variants, chosen.heavier, level)
        given, planned = self._times(chosen.given_variant), self._times(chosen.variants[0])
        chosen.given_ratio = given.profiled(items) / planned.profiled(items) if level < 0 else 1.0
        return chosen

    def release(self, replica: ModelServer, now_s: float, service_s: float) -> None:
        """Record that the replica answered its batch after `service_s`."""
        self._times(replica.given_variant).add(now_s, replica.given_items, service_s)
        self._last_variant = replica.given_variant
        # The variant with the least known time; by its profile that should be the lightest.
        times = {
            variant: self._service_s(USUAL_RATIO, now_s, 1, variant, REMEMBERED_SLOW_S)
            for variant in reversed(self._variants)
        }
        self._quickest = min(filter(times.get, times), key=times.__getitem__, default=self._variants[-1])
        # A batch from before a switch tells nothing about the variant after it.
        if replica.given_level == 0 and replica.given_variant == replica.variants[0]:
            replica.served.append((replica.given_items, service_s))
        self._leave(replica)

    def lost(self, replica: ModelServer, now_s: float) -> None:
        """Record that the replica's connection broke, and start its back-off."""
        replica.down_until_s = now_s + BACKOFF_S
        # The replica may restart as another process.
        replica.served.clear()
        self._leave(replica)

    def _leave(self, replica: ModelServer) -> None:
        replica.in_flight -= 1
        if not replica.in_flight:
            self._draining.pop(replica.url, None)

    def next_up_s(self, now_s: float) -> float | None:
        """The time at which the next back-off ends; None if no replica is in back-off."""
        waits = (replica.down_until_s for replica in self._active.values())
        return min((until for until in waits if until > now_s), default=None)

    def suspects(self, now_s: float) -> list[str]:
        """The URLs of the replicas, draining ones included, whose batch takes longer than `patience_s`.

        They get no other batch until they answer; a supervisor may kill them.
        """
        known = (*self._active.values(), *self._draining.values())
        return [it.url for it in known if it.in_flight and now_s - it.given_s >= it.patience_s]

    def to_json(self, now_s: float) -> dict[str, Any]:
        """The URLs of the replicas with a batch, of those that drain, and of those suspected to hang."""
        return {
            "in_flight": [it.url for it in self._active.values() if it.in_flight],
            "draining": list(self._draining),
            "suspects": self.suspects(now_s),
        }
