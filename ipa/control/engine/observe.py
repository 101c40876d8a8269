"""The observation: the signals of the metrics merged with the state of the workload.

An invalid value (NaN, infinite, negative) becomes Missing here, so later code never gets one. Values are
rounded to their significant digits, so that the recorded inputs are those of the decision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf, isfinite

from ipa.control.ports import PartSignals, Signals, StageSignals, StageState, WorkloadState
from ipa.model.errors import DriftError, IncompleteError, IpaError, NotFoundError
from ipa.model.observation import (
    Attainment,
    Batches,
    LoadHistory,
    Loss,
    Measured,
    Missing,
    MissingReason,
    Observation,
    PartObservation,
    StageObservation,
    known,
)
from ipa.model.parts import is_shared, parts_of
from ipa.model.pipeline import Pipeline, Stage
from ipa.model.plan import WHOLE_PERCENT
from ipa.model.rounding import significant, to_ms

NOT_READ = Missing(MissingReason.ABSENT, "the metrics have no such stage")
# Of a part that no metrics tell from the others.
NO_PART = Missing(MissingReason.ABSENT, "the metrics have no such part")
UNSEEN = PartSignals(NO_PART, NO_PART)


def unseen_by(error: IpaError) -> MissingReason:
    """The reason why the running configuration is not known after that error of reading the workload.

    INVALID: it is not a configuration of the pipeline. ABSENT: its workload does not exist.
    """
    if isinstance(error, DriftError):
        return MissingReason.INVALID
    is_gone = isinstance(error, NotFoundError) and not isinstance(error, IncompleteError)
    return MissingReason.ABSENT if is_gone else MissingReason.UNREACHABLE


def observe(
    pipeline: Pipeline,
    signals: Signals,
    workload: WorkloadState | None,
    *,
    problem: str = "",
    unseen: MissingReason = MissingReason.UNREACHABLE,
    at_s: float,
) -> Observation:
    """The observation of a pipeline; `workload` is None if it could not be read, with the cause in `problem`.

    `unseen` is then the reason (`unseen_by`). Parts that share the load have stages of their own. Metrics are
    per stage, so arrivals and queue length are divided by the parts' shares; batches are those of all parts
    together if metrics do not distinguish them.
    """
    running = list(workload.stages) if workload else []
    several = is_shared([state.config for state in running])
    parts = _parts(signals, running)
    stages = []
    for part in parts_of([state.config for state in running]) or ((),):
        states = {config.stage: running.pop(0) for config in part}
        for stage in pipeline.served:
            state = states.get(stage.name)
            missing = Missing(unseen if workload is None else MissingReason.ABSENT, problem)
            stage_signals = signals.stages.get(
                stage.name, StageSignals(NOT_READ, NOT_READ, NOT_READ, NOT_READ)
            )
            own = signals.parts.get(state.part, UNSEEN).batches.get(stage.name) if state else None
            ratio = state.config.share_percent / WHOLE_PERCENT if state else 1.0
            stages.append(
                StageObservation(
                    stage=stage.name,
                    running=Measured(state.config) if state else missing,
                    ready_replicas=Measured(state.ready_replicas) if state else missing,
                    arrival_rate_rps=_shared(checked(stage_signals.arrival_rate_rps), ratio),
                    latency_s=checked(stage_signals.latency_s),
                    queue_length=_shared(checked(stage_signals.queue_length), ratio),
                    batches=checked_batches(stage_signals.batches if own is None else own),
                    lost=state.lost if state else "",
                    is_own=several and own is not None,
                    served=shares(stage, stage_signals.served),
                )
            )
    rate, load = checked(signals.arrival_rate_rps), checked_load(signals.load)
    waiting = _waiting(stages)
    if waiting and isinstance(rate, Measured) and not rate.value:
        rate = load = Missing(MissingReason.INVALID, f"it is 0, and {waiting}", rate.age_s)
    return Observation(
        pipeline=pipeline.name,
        at_s=at_s,
        arrival_rate_rps=rate,
        load=load,
        latency_s=checked(signals.latency_s),
        stages=tuple(stages),
        revision=workload.revision if workload else "",
        settled=workload.settled if workload else False,
        problem=problem or (workload.problem if workload else ""),
        changed_by=workload.changed_by if workload else "",
        attainment=checked_attainment(signals.attainment),
        parts=parts,
    )


def _parts(signals: Signals, running: Sequence[StageState]) -> tuple[PartObservation, ...]:
    """The observation of each part; empty if one configuration runs alone."""
    if not is_shared([state.config for state in running]):
        return ()
    first = running[0].config.stage
    part_signals = (signals.parts.get(state.part, UNSEEN) for state in running if state.config.stage == first)
    return tuple(
        PartObservation(checked(it.latency_s), checked_attainment(it.attainment)) for it in part_signals
    )


def _waiting(stages: Sequence[StageObservation]) -> str:
    """The longest queue, in words, if it is longer than what its replicas take at once; else empty."""
    queues = [(length, stage) for stage in stages if (length := known(stage.queue_length))]
    for length, stage in sorted(queues, key=lambda queue: -queue[0]):
        config = stage.running
        if isinstance(config, Measured) and length > config.value.batch_size * config.value.replicas:
            return f"{length:g} items wait for {stage.stage}"
    return ""


def _shared(value: Measured[float] | Missing, ratio: float) -> Measured[float] | Missing:
    """The value times the share."""
    return value if isinstance(value, Missing) or ratio == 1 else replace(value, value=value.value * ratio)


def checked(value: Measured[float] | Missing) -> Measured[float] | Missing:
    """The value; Missing if it is not a finite number ≥ 0."""
    if isinstance(value, Missing):
        return value
    if sane(value.value):
        return Measured(significant(value.value), to_ms(value.age_s))
    return Missing(MissingReason.INVALID, f"its value is {value.value}", value.age_s)


def checked_batches(batches: Measured[Batches] | Missing) -> Measured[Batches] | Missing:
    """The batches; Missing if one of their numbers is invalid."""
    if isinstance(batches, Missing):
        return batches
    value = batches.value
    numbers = (value.count, value.service_s, value.items, value.window_s)
    if all(map(sane, numbers)) and value.service_s > 0 and value.items > 0 and value.window_s > 0:
        return Measured(Batches(*map(significant, numbers)), to_ms(batches.age_s))
    return Missing(MissingReason.INVALID, f"the batches are {value}", batches.age_s)


def shares(stage: Stage, served: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    """The shares of the items by variant of the stage, to a thousandth, the largest first.

    Empty if nothing was served or a rate is invalid.
    """
    rates = {it.name: served[it.name] for it in stage.variants if it.name in served}
    whole = sum(rates.values())
    if not all(map(sane, rates.values())) or not sane(whole) or not whole:
        return ()
    rounded = ((variant, round(rate / whole, 3)) for variant, rate in rates.items())
    return tuple(sorted((it for it in rounded if it[1]), key=lambda it: (-it[1], it[0])))


def checked_attainment(attainment: Measured[Attainment] | Missing) -> Measured[Attainment] | Missing:
    """The attainment; Missing if one of its numbers is invalid, or no request ended."""
    if isinstance(attainment, Missing):
        return attainment
    value = attainment.value
    if not all(map(sane, (value.count, value.in_time_ratio, value.window_s))) or value.in_time_ratio > 1:
        return Missing(MissingReason.INVALID, f"the attainment is {value}", attainment.age_s)
    if value.count <= 0:
        return Missing(MissingReason.ABSENT, "no request ended in the window", attainment.age_s)
    count, ratio, window_s = map(significant, (value.count, value.in_time_ratio, value.window_s))
    losses = tuple(Loss(it.stage, it.cause, significant(it.count)) for it in value.losses if sane(it.count))
    retried = significant(value.retried) if sane(value.retried) else 0.0
    return Measured(Attainment(count, ratio, window_s, losses, retried), to_ms(attainment.age_s))


def checked_load(load: Measured[LoadHistory] | Missing) -> Measured[LoadHistory] | Missing:
    """The load with invalid samples as gaps; Missing if no sample is valid."""
    if isinstance(load, Missing):
        return load
    rates = load.value.rates_rps
    # As `sane`; a list, as this runs for hundreds of rates at each tick.
    cleaned = tuple([significant(rate) if rate is not None and 0 <= rate < inf else None for rate in rates])
    if any(rate is not None for rate in cleaned):
        return Measured(replace(load.value, rates_rps=cleaned), to_ms(load.age_s))
    if any(rate is not None for rate in rates):
        return Missing(MissingReason.INVALID, "no rate in the window is a finite number ≥ 0", load.age_s)
    return Missing(MissingReason.ABSENT, "the window has no rate", load.age_s)


def sane(value: float) -> bool:
    """True if the value can be a rate, a length or a duration: finite and not negative."""
    return isfinite(value) and value >= 0


def with_earlier(observation: Observation, earlier: LoadHistory | None) -> Observation:
    """The observation whose load has the rates of an earlier process from before its own first.

    The time between the two processes stays a gap.
    """
    load = observation.load
    if earlier is None or not isinstance(load, Measured):
        return observation
    now = load.value
    if now.end_s is None or earlier.end_s is None or now.step_s != earlier.step_s:
        return observation
    unseen = next((at for at, rate in enumerate(now.rates_rps) if rate is not None), len(now.rates_rps))
    # The steps by which a rate of this history stands further back than in the earlier one.
    shift = round((now.end_s - earlier.end_s) / now.step_s) + len(earlier.rates_rps) - len(now.rates_rps)
    known = (
        earlier.rates_rps[at] if 0 <= at < len(earlier.rates_rps) else None
        for at in range(shift, shift + unseen)
    )
    rates = (*known, *now.rates_rps[unseen:])
    return replace(observation, load=replace(load, value=replace(now, rates_rps=rates)))
