"""The slowdown of each variant: the ratio of its observed batch time to its profile.

A profile is measured on a replica alone; on a shared machine a batch may take longer. The logarithm of the
ratio is believed with a variance, as by a Kalman filter: it drifts, a mean of batches has the variance of
their times over their number, and what is many deviations away shows that something changed. An assumed
profile has the longest credible times, and a belief that starts as wide as their range.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import exp, log, sqrt

from ipa.control.engine.guards import STEP, SURE, GuardSettings
from ipa.model.decision import Event, Notice
from ipa.model.observation import Batches, Measured, Observation
from ipa.model.parts import is_shared
from ipa.model.pipeline import MeasuredVariant, Pipeline
from ipa.model.plan import CFS_PERIOD_S, Plan, StageConfig
from ipa.model.profile import LEAST_SLOWDOWN, MOST_SLOWDOWN, Slowdown, Slowdowns
from ipa.model.recording import UNLESS_DEFAULT, recorded_as
from ipa.model.rounding import significant
from ipa.policies.base import ANY_RATE_RPS, Predictor
from ipa.profiling.measured_accuracy import Feedback, MeasuredAccuracy
from ipa.queueing.service import ServiceTime

# The deviation of a ratio, in logarithms, before it is observed, and by how much it drifts in a second; one
# that has not been observed for so long that it is as uncertain as before is forgotten. Of an assumed profile
# the deviation is larger.
FIRST_DEVIATION, DRIFT = 0.2, 0.005
# Fewer batches in a window are ignored.
LEAST_BATCHES = 5
# The least variation of their times that is assumed.
LEAST_VARIATION = 0.25
# Above the first an event is emitted, and again only after it was below the second.
ALARM, ALARM_END = 1.25, 1.15


@dataclass(frozen=True, slots=True)
class ObservedSlowdown:
    """The observed slowdown of a variant: `ratio` times its profile, last at `at_s`.

    `variance` is that of the ratio's logarithm. `steps` is the number of `STEP`s that plans use, negative for
    a variant that is quicker than profiled; `is_reported` is True if the event was emitted.
    """

    stage: str
    variant: str
    ratio: float
    steps: int
    at_s: float
    variance: float = FIRST_DEVIATION**2
    is_reported: bool = field(default=False, metadata=recorded_as("is_told"))

    @property
    def planned_ratio(self) -> float:
        """The ratio that plans use."""
        return STEP**self.steps

    @property
    def deviation(self) -> float:
        """The standard deviation of the ratio."""
        return self.ratio * sqrt(self.variance)


@dataclass(frozen=True, slots=True)
class RunningSince:
    """The time since which a stage runs these replicas, with no change in flight."""

    stage: str
    variant: str
    cores: float
    since_s: float


@dataclass(frozen=True, slots=True)
class Correction:
    """The slowdowns learned of each variant, and since when each stage runs its replicas.

    `machine_steps`: the steps by which all running variants were slow when last observed together: the
    slowdown of the machine, for any variant. `accuracies` are measured from feedback.
    """

    observed: tuple[ObservedSlowdown, ...] = field(default=(), metadata=recorded_as("seen"))
    since: tuple[RunningSince, ...] = ()
    machine_steps: int = 0
    accuracies: tuple[MeasuredAccuracy, ...] = field(default=(), metadata=UNLESS_DEFAULT)

    def with_feedback(self, pipeline: Pipeline, feedback: Iterable[Feedback]) -> Correction:
        """The correction after these judgements; those of variants without a profile are ignored."""
        accuracies = {(each.stage, each.variant): each for each in self.accuracies}
        by_variant: defaultdict[tuple[str, str], list[Feedback]] = defaultdict(list)
        for each in feedback:
            by_variant[each.stage, each.variant].append(each)
        for key in by_variant.keys() & pipeline.bounds.measured.keys():
            unmeasured = MeasuredAccuracy(*key, pipeline.bounds.measured[key].accuracy)
            accuracies[key] = accuracies.get(key, unmeasured).with_feedback(by_variant[key])
        return replace(self, accuracies=tuple(accuracies[key] for key in sorted(accuracies)))

    def of(self, stage: str, variant: str) -> ObservedSlowdown | None:
        """The slowdown of the variant; None if it is unknown."""
        return next((each for each in self.observed if (each.stage, each.variant) == (stage, variant)), None)

    def expected(self, stage: str, variant: str) -> ObservedSlowdown:
        """The slowdown of a variant that was not observed: as slow as the newest of its stage.

        What makes one slow, its neighbours, makes all slow; one that is quick may have a wrong profile.
        """
        mine = (each for each in self.observed if each.stage == stage)
        newest = max(mine, key=lambda each: each.at_s, default=None)
        if newest is None or newest.ratio < 1:
            newest = ObservedSlowdown(stage, variant, 1.0, 0, 0.0)
        return replace(newest, variant=variant, variance=FIRST_DEVIATION**2)

    def slowdowns(self, pipeline: Pipeline) -> Slowdowns:
        """The slowdowns to plan with, and the measured accuracies that contradict the profile's.

        A variant that was not observed is as `expected`; none is quicker than the machine, also if it was
        when it ran last.
        """
        slowdowns = []
        known_accuracies = {(each.stage, each.variant): each.interval for each in self.accuracies}
        off = {key: (it.lower, it.mean) for key, it in known_accuracies.items() if it.contradicts}
        for stage in pipeline.served if self.observed or off else ():
            for variant in stage.variants:
                key = stage.name, variant.name
                known = self.of(*key) or self.expected(*key)
                steps = max(known.steps, self.machine_steps)
                if steps or key in off:
                    slowdowns.append(Slowdown(*key, STEP**steps, *off.get(key, ())))
        return tuple(slowdowns)


UNCORRECTED = Correction()


def learned(
    before: Correction,
    observation: Observation,
    predict: Predictor,
    settings: GuardSettings,
    now_s: float,
    *,
    measured: Mapping[tuple[str, str], MeasuredVariant],
    moving: Container[str] = frozenset(),
    is_broken: bool,
) -> Correction:
    """The correction after this tick. `predict` uses the profiles alone, `measured` tells the assumed ones.

    While the SLO `is_broken` a surprise counts at once. Nothing is learned of the stages that are `moving`,
    whose replicas a change replaces; from batches that may be of other replicas, are too few, or old; and
    while several configurations share the load, if metrics do not distinguish their batches. If two of them
    run the same variant, it is learned from the one with more batches.
    """
    if not settings.correct_profiles:
        return Correction(accuracies=before.accuracies)
    first = {key: max(log(it.assumed_ratio or 1.0), FIRST_DEVIATION) for key, it in measured.items()}
    deviations = defaultdict(lambda: FIRST_DEVIATION, first)
    recent = tuple(
        it for it in before.observed if now_s - it.at_s < (deviations[it.stage, it.variant] / DRIFT) ** 2
    )
    running = observation.running()
    if running is None:
        return replace(before, observed=recent)
    by_replica = {(each.stage, each.variant, each.cores): each for each in reversed(before.since)}
    known = [by_replica.get((config.stage, config.variant, config.cores)) for config in running]
    is_mixed = is_shared(running) and not all(stage.is_own for stage in observation.stages)
    if is_mixed:
        # One that ran beside others has batches of its own alone once their replicas have served what waits.
        windows_s = [
            it.batches.value.window_s for it in observation.stages if isinstance(it.batches, Measured)
        ]
        begins_s = now_s + max(windows_s, default=0.0)
        mixed = tuple(RunningSince(each.stage, each.variant, each.cores, begins_s) for each in running)
        return replace(before, observed=recent, since=mixed)
    since = tuple(
        RunningSince(config.stage, config.variant, config.cores, now_s)
        if each is None or config.stage in moving
        else each
        for each, config in zip(known, running, strict=True)
    )
    after = replace(before, observed=recent, since=since, machine_steps=before.machine_steps if recent else 0)
    ripe: dict[tuple[str, str], tuple[Batches, int]] = {}
    for at, (stage, one) in enumerate(zip(observation.stages, since, strict=True)):
        if isinstance(stage.batches, Measured) and _is_ripe(stage.batches, one, settings, now_s):
            each = stage.batches.value, at
            ripe[one.stage, one.variant] = max(
                ripe.get((one.stage, one.variant), each), each, key=lambda it: it[0].count
            )
    by_profile = predict(running, ANY_RATE_RPS) if ripe else None
    if by_profile is None:
        return after
    for batches, at in ripe.values():
        config, service = running[at], by_profile.services[at]
        deviation = deviations[config.stage, config.variant]
        updated = _updated(after, config, service, batches, now_s, deviation, is_broken)
        others = (it for it in after.observed if (it.stage, it.variant) != (config.stage, config.variant))
        after = replace(after, observed=(*others, updated))
    return replace(after, machine_steps=_machine_steps(after))


def _machine_steps(now: Correction) -> int:
    """The steps by which all running variants are slow.

    As before until each was observed as it runs.
    """
    steps = []
    for each in now.since:
        slowdown = now.of(each.stage, each.variant)
        if slowdown is None or slowdown.at_s < each.since_s:
            return now.machine_steps
        steps.append(slowdown.steps)
    return min(steps, default=0)


def alarms(known: Correction, pipeline: Pipeline) -> tuple[Correction, tuple[Event, ...]]:
    """The correction with the events of newly wrong profiles, each reported once."""
    events, observed = [], []
    for each in known.observed:
        is_slow = each.planned_ratio > (ALARM_END if each.is_reported else ALARM)
        if is_slow and not each.is_reported:
            words = (
                f"batches of {each.stage}={each.variant} take {each.ratio:.3g} x their profiled time, which "
                f"plans now use; profile it again where it runs (ipa profile {pipeline.name} --stage "
                f"{each.stage}), or check what else runs on its machines"
            )
            events.append(Event(Notice.PROFILE_SLOW, words, is_warning=True))
        observed.append(replace(each, is_reported=is_slow))
    return replace(known, observed=tuple(observed)), tuple(events)


def planned_with(plan: Plan) -> str:
    """The plan's variants that are slower or quicker than their profile, in words; empty without any."""
    named = [
        f"{stage.stage}={stage.variant} at {stage.slowdown_ratio:.3g} x its profiled batch time"
        for stage in plan.stages
        if stage.slowdown_ratio != 1
    ]
    return f"planned with {', '.join(named)}" if named else ""


def _is_ripe(batches: Measured[Batches], since: RunningSince, settings: GuardSettings, now_s: float) -> bool:
    """True if the batches are enough, new enough, and all of the running replicas."""
    value = batches.value
    return (
        batches.age_s <= settings.stale_after_s
        and value.count >= LEAST_BATCHES
        and now_s - since.since_s >= value.window_s + batches.age_s
    )


def _updated(
    known: Correction,
    config: StageConfig,
    service: ServiceTime,
    batches: Batches,
    now_s: float,
    first_deviation: float,
    is_broken: bool,
) -> ObservedSlowdown:
    """The slowdown of the variant after these batches.

    A mean that is SURE to be no chance may be one long batch: it counts once the next one says so too, or at
    once while requests are late. Plans follow what is SURE to differ from what they use.
    """
    mine = known.of(config.stage, config.variant)
    before = mine or replace(known.expected(config.stage, config.variant), variance=first_deviation**2)
    passed_s = now_s - mine.at_s if mine else batches.window_s
    variance = before.variance + DRIFT**2 * passed_s
    expected_s = service.mean_s(max(batches.items, 1.0), config.batch_size)
    if config.batch_size == 1:
        # Several items of one request are served at once; plans count them one after another.
        expected_s *= max(batches.items, 1.0)
    observed_ratio = _within_savings(before.ratio, batches.service_s, expected_s, service.quota_cores)
    least = LEAST_SLOWDOWN * exp(SURE * (FIRST_DEVIATION - first_deviation))
    surprise = log(min(max(observed_ratio, least), MOST_SLOWDOWN) / before.ratio)
    each_variance = max(service.spread, LEAST_VARIATION**2)
    counts = True
    if surprise**2 > SURE**2 * (variance + each_variance / batches.count):
        variance, counts = surprise**2, is_broken
    # Windows that overlap have the same batches.
    new_count = batches.count * min(passed_s / batches.window_s, 1.0)
    gain = variance / (variance + each_variance / new_count) if counts and new_count else 0.0
    log_ratio, variance = log(before.ratio) + gain * surprise, variance * (1 - gain)
    exact = log_ratio / log(STEP)
    is_sure = abs(exact - before.steps) * log(STEP) >= SURE * sqrt(variance)
    steps = round(exact) if is_sure else before.steps
    return ObservedSlowdown(
        config.stage,
        config.variant,
        significant(exp(log_ratio)),
        steps,
        now_s,
        significant(variance),
        before.is_reported,
    )


def _within_savings(ratio: float, observed_s: float, expected_s: float, quota_cores: float) -> float:
    """The ratio nearest to the known one that agrees with the observation of a replica with a quota.

    Without CPU time saved up while idle its batches take longer: all of it at full speed, which takes
    `quota_cores` of the time, and at most a period more.
    """
    if not quota_cores or observed_s >= expected_s:
        return observed_s / expected_s
    most_s = min(observed_s / quota_cores, observed_s + CFS_PERIOD_S, expected_s)
    return min(max(ratio, observed_s / expected_s), most_s / expected_s)
