"""The Metrics port over a simulated pipeline, with scrapes, delays and gaps."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import floor

import numpy as np
from numpy.typing import NDArray

from ipa.control.counters import load_of
from ipa.control.ports import Load, PartSignals, Signals, StageSignals
from ipa.model.errors import InputError
from ipa.model.observation import Attainment, Batches, Loss, Measured, Missing, MissingReason
from ipa.model.pipeline import Pipeline, Stage
from ipa.simulate.columns import KEPT_S, Floats, Items, served
from ipa.simulate.stage import StageSim

Counts = NDArray[np.int64]
Value = Measured[float] | Missing
# From, to; in seconds.
Window = tuple[float, float]


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """The monitoring of the pipeline. The defaults are those of a pipeline on this machine.

    Counters are scraped every `scrape_interval_s` (whole seconds) and known `delay_s` later. A rate, like the
    share of requests in time, is the mean over `rate_window_s`, at least two intervals; the load is read from
    the samples themselves. The latency quantile covers requests answered in `latency_window_s`, batches are
    those that ended in `batches_window_s`. In `gaps` nothing is scraped, so samples grow old; in `outages`
    nothing answers. Samples older than `stale_after_s` are Missing (stale). `tells_stage_latencies`: stages
    have latencies, which are slow to compute and no decision uses. `tells_batches`: batches of configurations
    side by side are told apart, as by a label. InputError for impossible windows.
    """

    scrape_interval_s: float = 1.0
    delay_s: float = 0.0
    rate_window_s: float = 5.0
    latency_window_s: float = 15.0
    batches_window_s: float = 10.0
    stale_after_s: float = 15.0
    gaps: tuple[Window, ...] = ()
    outages: tuple[Window, ...] = ()
    tells_batches: bool = True
    tells_stage_latencies: bool = False

    def __post_init__(self) -> None:
        if self.scrape_interval_s < 1 or self.scrape_interval_s != floor(self.scrape_interval_s):
            raise InputError(
                f"scrape_interval_s is {self.scrape_interval_s:g}, and must be whole seconds from 1 on"
            )
        if self.rate_window_s < (least_s := 2 * self.scrape_interval_s):
            raise InputError(f"rate_window_s must be {least_s:g} or more, for two scrapes")


# A pipeline on a cluster as the service sees it through Prometheus.
ON_CLUSTER = MetricsSettings(
    scrape_interval_s=5.0,
    rate_window_s=30.0,
    latency_window_s=60.0,
    batches_window_s=30.0,
    tells_batches=False,
)


class EndedRequests:
    """The requests that ended, by end: its time, their latency (NaN: lost), and their part's slot.

    A slot is 0 while there is one part.
    """

    def __init__(self, most: int) -> None:
        self._done_s, self._latency_s = np.empty(most), np.empty(most)
        self._slot = np.zeros(most, dtype=np.int8)
        self._count = 0

    def add(self, ended: Items, slot: Counts | int) -> None:
        """Add requests that ended after all earlier ones."""
        new = slice(self._count, self._count + len(ended.ids))
        self._done_s[new], self._slot[new] = ended.done_s, slot
        self._latency_s[new] = np.where(ended.lost, np.nan, ended.latency_s)
        self._count = new.stop

    def latencies_in(self, since_s: float, until_s: float, slot: int = 0) -> Floats:
        """Latencies of the requests that ended after `since_s` and until `until_s`; in s, NaN if lost.

        Only of that slot; 0: of all slots.
        """
        ends = np.searchsorted(self._done_s[: self._count], (since_s, until_s), side="right")
        latencies_s = self._latency_s[slice(*ends)]
        return latencies_s[self._slot[slice(*ends)] == slot] if slot else latencies_s


class SimMetrics:
    """The Metrics port: load by the second, rates, latency quantile and queues, as far as scraped.

    `arrivals` counts the requests of each second since the start. `SimWorld` fills the others: `stages` by
    slot of the part and name, `ended` requests, and the slots of `parts`, if there are several.
    """

    def __init__(self, arrivals: Counts, settings: MetricsSettings, now_s: Callable[[], float]) -> None:
        self._settings, self._now_s = settings, now_s
        # The requests that arrived before each second.
        self._arrived = np.concatenate([[0], np.cumsum(arrivals)])
        self.stages: defaultdict[str, dict[int, StageSim]] = defaultdict(dict)
        self.ended = EndedRequests(int(self._arrived[-1]))
        self.parts: tuple[int, ...] = ()

    def read(self, pipeline: Pipeline, window_s: float) -> Signals:
        """The signals as known now, the load over the last `window_s` seconds."""
        settings, times = self._settings, self._known(window_s)
        if isinstance(times, Missing):
            unseen = StageSignals(times, times, times, times)
            return Signals(times, times, times, {stage.name: unseen for stage in pipeline.served})
        newest_s = int(times[-1])
        age_s = self._now_s() - newest_s
        quantile = pipeline.sla.percentile / 100

        def latency(slot: int = 0) -> Value:
            ended_s = self.ended.latencies_in(newest_s - settings.latency_window_s, newest_s, slot)
            return _quantile(ended_s[~np.isnan(ended_s)], quantile, age_s)

        def attainment(slot: int = 0) -> Measured[Attainment] | Missing:
            ended_s = self.ended.latencies_in(newest_s - settings.rate_window_s, newest_s, slot)
            return _attainment(ended_s, pipeline.sla.latency_s, settings.rate_window_s, age_s)

        def batches(slot: int) -> dict[str, Measured[Batches] | Missing]:
            names = [stage.name for stage in pipeline.served] if settings.tells_batches else []
            return {name: self._batches([self.stages[name][slot]], newest_s, age_s) for name in names}

        return Signals(
            arrival_rate_rps=self._rate(self._arrived_before, times, age_s),
            load=self._load(times, window_s, age_s),
            latency_s=latency(),
            attainment=attainment(),
            parts={
                str(slot): PartSignals(latency(slot), attainment(slot), batches(slot)) for slot in self.parts
            },
            stages={stage.name: self._stage(stage, quantile, times, age_s) for stage in pipeline.served},
        )

    def _stage(self, stage: Stage, quantile: float, times: Counts, age_s: float) -> StageSignals:
        """The signals of a stage, all parts together."""
        sims, newest_s = list(self.stages[stage.name].values()), int(times[-1])
        return StageSignals(
            self._rate(lambda second: sum(sim.items_before(second) for sim in sims), times, age_s),
            self._stage_latency(sims, quantile, newest_s, age_s),
            Measured(float(sum(sim.waiting_at(newest_s) for sim in sims)), age_s),
            self._batches(sims, newest_s, age_s),
            self._served(sims, newest_s) if stage.residents > 1 else {},
        )

    def _served(self, sims: Sequence[StageSim], newest_s: int) -> dict[str, float]:
        """The items a second by variant, of a stage that keeps several loaded."""
        window_s, served = self._settings.batches_window_s, Counter[str]()
        for sim in sims:
            served.update(sim.served_in(newest_s - window_s, newest_s))
        return {variant: items / window_s for variant, items in served.items()}

    def load(self, pipeline: Pipeline, window_s: float) -> Load:
        """The load over the last `window_s` seconds, as known now."""
        times = self._known(window_s)
        return times if isinstance(times, Missing) else self._load(times, window_s, self._now_s() - times[-1])

    def _known(self, window_s: float) -> Counts | Missing:
        """The scrape times that a window needs, as far as known now and not stale."""
        settings, now_s = self._settings, self._now_s()
        if any(start <= now_s < end for start, end in settings.outages):
            return Missing(MissingReason.UNREACHABLE, "no answer")
        # The window is extended by the gaps; there are no scrapes before the start.
        known_s, every = now_s - settings.delay_s, int(settings.scrape_interval_s)
        since_s = known_s - window_s - KEPT_S - sum(end - start for start, end in settings.gaps)
        times = np.arange(max(0, floor(since_s / every)) * every, floor(known_s) + 1, every, dtype=np.int64)
        for start, end in settings.gaps:
            times = times[(times < start) | (times >= end)]
        if not len(times):
            return Missing(MissingReason.ABSENT, "no samples yet")
        age_s = now_s - int(times[-1])
        if age_s > settings.stale_after_s:
            words = f"the newest sample is {age_s:.0f} s old, the limit is {settings.stale_after_s:g} s"
            return Missing(MissingReason.STALE, words, age_s)
        return times

    def _arrived_before(self, second: int) -> int:
        return int(self._arrived[min(second, len(self._arrived) - 1)])

    def _rate(self, came_before: Callable[[int], int], times: Counts, age_s: float) -> Value:
        """The mean rate over the window that ends with the newest sample."""
        first = int(times[np.searchsorted(times, times[-1] - self._settings.rate_window_s)])
        newest = int(times[-1])
        if first == newest:
            return Missing(MissingReason.ABSENT, "a rate needs two samples", age_s)
        return Measured((came_before(newest) - came_before(first)) / (newest - first), age_s)

    def _load(self, times: Counts, window_s: float, age_s: float) -> Load:
        """The rate in each second up to the newest sample."""
        counts = self._arrived[np.minimum(times, len(self._arrived) - 1)]
        load = load_of([(times.astype(float), counts.astype(float))], window_s)
        if load is None:
            return Missing(MissingReason.ABSENT, "a rate needs two samples", age_s)
        return Measured(replace(load, end_s=None), age_s)

    def _stage_latency(self, sims: Sequence[StageSim], quantile: float, newest_s: int, age_s: float) -> Value:
        """The quantile of wait and service of the items that left the stage in the window."""
        if not self._settings.tells_stage_latencies:
            return NOT_ASKED
        since_s = newest_s - self._settings.latency_window_s
        ended = Items.joined([sim.batches.items_in(since_s, newest_s) for sim in sims])
        return _quantile(ended.done_s - ended.arrived_s, quantile, age_s)

    def _batches(self, sims: Sequence[StageSim], newest_s: int, age_s: float) -> Measured[Batches] | Missing:
        batches = served([sim.batches for sim in sims], newest_s - self._settings.batches_window_s, newest_s)
        return Measured(batches, age_s) if batches else NO_BATCHES


NOT_ASKED = Missing(MissingReason.NOT_ASKED, "latencies of single stages are switched off")
IDLE = Missing(MissingReason.ABSENT, "no request was answered in the window")
NO_BATCHES = Missing(MissingReason.ABSENT, "no batch was served in the window")


def _quantile(latencies_s: Floats, quantile: float, age_s: float) -> Value:
    return Measured(float(np.quantile(latencies_s, quantile)), age_s) if len(latencies_s) else IDLE


def _attainment(
    ended_s: Floats, sla_s: float, window_s: float, age_s: float
) -> Measured[Attainment] | Missing:
    """The share in time of the requests that ended in the window, by their latencies (NaN: lost)."""
    ended = len(ended_s)
    if not ended:
        return IDLE
    lost = int(np.isnan(ended_s).sum())
    # The simulated queues drop requests whose time is up; the stage is not known.
    losses = (Loss("", "no_time_left", float(lost)),) if lost else ()
    ratio = float((ended_s <= sla_s).sum()) / ended
    return Measured(Attainment(float(ended), ratio, window_s, losses), age_s)
