"""Canaries: a configuration with a new variant is tried on a few requests before it takes all.

    proven ones run ─begin▶ its parts start at 0 % ▶ they take a few percent ▶ they are measured
      measured ─as good as the SLO, or as the others▶ PASSED ▶ they take all; their variants are proven
      measured ─worse, or too few requests▶ FAILED ▶ they are removed; their variants are in quarantine

A variant is proven once it has served more than a canary's share. No unproven one ever takes more, whatever
the load: meanwhile plans are made of the proven ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import ceil

from ipa.control.engine.guards import SURE
from ipa.control.engine.lateness import LEAST_COUNT, most_late
from ipa.model.observation import Measured, Observation, PartObservation
from ipa.model.parts import Configs, in_order, parts_of, share_of, variants_of, with_share
from ipa.model.pipeline import Canary, Pipeline
from ipa.model.plan import WHOLE_PERCENT, StageConfig
from ipa.model.recording import UNLESS_DEFAULT
from ipa.policies.base import Predictor

# A canary without enough measurements after this many times its `measure` is taken back.
LONGEST_RATIO = 5.0
# A canary that is this many deviations of chance worse is bad; before its time is over, SURE ones.
DEVIATIONS = 2.0
# The first words of a decision that takes one back, by which a restart knows it.
FAILED = "the canary failed"
Variants = frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class EndedCount:
    """Requests that ended while a canary was measured: all, those not in time, those without an answer."""

    all: float = 0.0
    late: float = 0.0
    failed: float = 0.0

    @property
    def in_time_ratio(self) -> float:
        """The share of those in time; 1 if none ended."""
        return 1 - self.late / self.all if self.all else 1.0

    def plus(self, part: PartObservation, passed_s: float) -> EndedCount:
        """The count with those of the last `passed_s`, at the rates of the observation's window."""
        if not isinstance(part.attainment, Measured):
            return self
        now = part.attainment.value
        count = now.count * passed_s / now.window_s
        failed = sum(loss.count for loss in now.losses) * passed_s / now.window_s
        return EndedCount(self.all + count, self.late + count * (1 - now.in_time_ratio), self.failed + failed)


@dataclass(frozen=True, slots=True)
class CanaryTrial:
    """The trial of new parts: `canary` with their shares; if they pass, `wanted` runs.

    They take requests since `since_s` (None: not yet) and were measured for `measured_s` until `judged_s`;
    `own` are their requests, `others` those of the other parts, `latency_s` is their newest at the SLA's
    percentile. `decision_id` is the decision that began it, and `before` the configuration before that.
    """

    canary: Configs
    wanted: Configs
    since_s: float | None = None
    judged_s: float | None = None
    measured_s: float = 0.0
    own: EndedCount = EndedCount()
    others: EndedCount = EndedCount()
    latency_s: float | None = None
    decision_id: str = ""
    before: Configs = field(default=(), metadata=UNLESS_DEFAULT)

    def of(self, part: Sequence[StageConfig]) -> bool:
        """True if the part is under trial: the same variants with the same share."""
        mine = [(variants_of(each), share_of(each)) for each in parts_of(self.canary)]
        return (variants_of(part), share_of(part)) in mine

    def is_in(self, running: Configs) -> bool:
        """True if all of its parts run."""
        return sum(map(self.of, parts_of(running))) == len(parts_of(self.canary))

    def figures(self, pipeline: Pipeline) -> str:
        """The measurement so far, in words."""
        percent = sum(share_of(part) for part in parts_of(self.canary))
        if not self.own.all:
            return f"none of its {percent} % of the requests has been measured yet"
        latency = ""
        if self.latency_s is not None:
            latency = f", p{pipeline.sla.percentile:g} {self.latency_s:.3g} s"
        own, others = (100 * each.in_time_ratio for each in (self.own, self.others))
        return (
            f"{own:.1f} % of its {self.own.all:.0f} requests ({percent} %) were in time and "
            f"{self.own.failed:.0f} failed{latency}; the SLO is {pipeline.sla.percentile:g} % within "
            f"{pipeline.sla.latency_s:g} s, and {others:.1f} % of the others were in time"
        )


def proven_by(running: Configs, canary: Canary, proven: Variants) -> Variants:
    """The proven variants with those that serve more than a canary's share."""
    large = [part for part in parts_of(running) if share_of(part) > canary.share_percent]
    return proven.union(*map(variants_of, large))


def trial_of(
    wanted: Configs, running: Configs, canary: Canary, proven: Variants, predict: Predictor, rate_rps: float
) -> tuple[CanaryTrial, Configs] | None:
    """The trial that `wanted` needs, and the configuration with it beside the running one; None if none.

    Its parts have the replicas that their small share needs, all of them if it is not known how many do.
    """
    others = [part for part in parts_of(running) if variants_of(part) <= proven]
    new = [part for part in parts_of(wanted) if not variants_of(part) <= proven]
    if not new or not others:
        return None
    base, percent = with_rest(others, WHOLE_PERCENT), canary.share_percent

    def row(parts: Sequence[Configs]) -> Configs:
        return beside(base, in_order([with_share(part, percent) for part in parts]))

    fewer = [
        tuple(replace(it, replicas=ceil(it.replicas * percent / WHOLE_PERCENT)) for it in part)
        for part in new
    ]
    small = row(fewer)
    prediction = predict(small, rate_rps)
    if prediction is None or not prediction.feasible:
        small = row(new)
    trial_parts = [part for part in parts_of(small) if not variants_of(part) <= proven]
    return CanaryTrial(in_order(trial_parts), wanted), small


def beside(base: Configs, canary: Configs) -> Configs:
    """The base configuration with the canary beside it; the canary's share is taken from the largest part."""
    taken = sum(share_of(part) for part in parts_of(canary))
    return in_order([*parts_of(with_rest(parts_of(base), WHOLE_PERCENT - taken)), *parts_of(canary)])


def without(trial: CanaryTrial, running: Configs) -> Configs:
    """The running configuration without the canary, whose requests go to the largest of the others."""
    return with_rest([part for part in parts_of(running) if not trial.of(part)], WHOLE_PERCENT)


def with_rest(parts: Sequence[Configs], percent: int) -> Configs:
    """The parts with shares that sum to `percent`: the largest has the rest."""
    first, *others = sorted(parts, key=share_of, reverse=True)
    return in_order([with_share(first, percent - sum(map(share_of, others))), *others])


def measured(trial: CanaryTrial, observation: Observation, now_s: float) -> CanaryTrial:
    """The trial with the requests since the last tick, once the whole window lies within the trial."""
    running = observation.running() or ()
    if trial.since_s is None:
        return replace(trial, since_s=now_s)
    if len(observation.parts) != len(parts_of(running)):
        return trial
    parts = list(zip(map(trial.of, parts_of(running)), observation.parts, strict=True))
    mine = [part.attainment for is_mine, part in parts if is_mine]
    whole = [each for each in mine if isinstance(each, Measured)]
    window_s = max((each.value.window_s + each.age_s for each in whole), default=0.0)
    if not whole or now_s - trial.since_s < window_s:
        return trial
    judged_s = trial.since_s if trial.judged_s is None else trial.judged_s
    passed_s = min(now_s - judged_s, window_s)
    own, others = trial.own, trial.others
    for is_mine, part in parts:
        own, others = (own.plus(part, passed_s), others) if is_mine else (own, others.plus(part, passed_s))
    latencies = [part.latency_s for is_mine, part in parts if is_mine]
    slow = [each.value for each in latencies if isinstance(each, Measured)]
    return replace(
        trial,
        judged_s=now_s,
        measured_s=trial.measured_s + passed_s,
        own=own,
        others=others,
        latency_s=max(slow, default=trial.latency_s),
    )


def without_canary(observation: Observation, trial: CanaryTrial | None) -> Observation:
    """The observation with the attainment of the other parts alone, while a canary is measured.

    A late canary is no reason to add replicas to the others.
    """
    running = observation.running() or ()
    if trial is None or not trial.is_in(running) or len(observation.parts) != len(parts_of(running)):
        return observation
    parts = zip(parts_of(running), observation.parts, strict=True)
    others = [it.attainment for part, it in parts if not trial.of(part)]
    attainments = [each for each in others if isinstance(each, Measured)]
    if not attainments:
        return observation
    count = sum(each.value.count for each in attainments)
    in_time = sum(each.value.count * each.value.in_time_ratio for each in attainments)
    joined = replace(attainments[0].value, count=count, in_time_ratio=in_time / count, losses=())
    return replace(observation, attainment=replace(attainments[0], value=joined))


def has_failed(trial: CanaryTrial, pipeline: Pipeline, canary: Canary, now_s: float) -> bool:
    """True if more of its requests were late or failed than chance explains, given the SLO and the others.

    Also if several times the trial's duration gave too few requests.
    """
    is_over = trial.measured_s >= canary.measure_s
    if trial.own.all >= LEAST_COUNT:
        ratio = min(pipeline.sla.percentile / 100, trial.others.in_time_ratio)
        deviations = DEVIATIONS if is_over else SURE
        if trial.own.late > most_late(trial.own.all, ratio, deviations):
            return True
    waited_s = 0.0 if trial.since_s is None else now_s - trial.since_s
    return not has_passed(trial, canary) and waited_s > LONGEST_RATIO * canary.measure_s


def has_passed(trial: CanaryTrial, canary: Canary) -> bool:
    """True if it was measured long enough, with enough requests. The caller has ruled out `has_failed`."""
    return trial.measured_s >= canary.measure_s and trial.own.all >= LEAST_COUNT
