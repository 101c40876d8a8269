"""Faults of a monitored service, and the alerts that each is to fire."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ipa.control.engine.state import PeakForecaster
from ipa.control.ports import Rollout, RolloutPhase
from ipa.model.errors import ConflictError, ForbiddenError, IpaError, SolverError, UnavailableError
from ipa.model.measured import with_profiles
from ipa.model.observation import Forecast, LoadHistory
from ipa.model.pipeline import Sla
from ipa.profiling.measured_accuracy import Feedback
from ipa.simulate.cluster import ClusterSettings
from ipa.simulate.metrics import MetricsSettings
from tests.fakes.monitored import Monitored
from tests.fakes.policy_contract import slower
from tests.fakes.world import PIPELINE, PROFILES, SMALLEST

Call = Callable[..., object]
# A fault begins when the loop has settled.
FROM_S = 120.0
LENGTH_S = 600
RATE_RPS = 5.0
# What a pipeline that has too little of everything says beside the reason for it.
OVERLOAD = frozenset(
    {"IpaSloBurnFast", "IpaSloBurnSlow", "IpaLatencyAboveSla", "IpaCrowded", "IpaForecastOff"}
)


# No variant is so fast, and it can carry little.
HASTY = replace(PIPELINE, sla=Sla(0.02))
PROFILED = with_profiles(PIPELINE, PROFILES)
POOR = replace(PIPELINE, bounds=replace(PIPELINE.bounds, cores=3.0))


@dataclass(frozen=True)
class Fault:
    """A fault by the row it is of. `fires` must fire; of `may` what is true as well; nothing else."""

    row: str
    what: str
    made: Callable[[], Monitored]
    fires: frozenset[str] = frozenset()
    may: frozenset[str] = frozenset()


def steady(
    after_rps: float = RATE_RPS, before_rps: float = RATE_RPS, length_s: int = LENGTH_S
) -> list[float]:
    """A load that changes once, when faults begin."""
    return [before_rps] * int(FROM_S) + [after_rps] * (length_s - int(FROM_S))


class Faulty:
    """A part of the run, a verb of which goes through the fault once faults have begun, so many times."""

    def __init__(self, real: object, made: Monitored, verb: str, fault: Call, times: int) -> None:
        self._real, self._made = real, made
        self._verb, self._fault, self._times = verb, fault, times

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._real, name)
        if name != self._verb or not self._times or self._made.monotonic_s() < FROM_S:
            return call
        self._times -= 1
        return partial(self._fault, self._made, call)


def faulty(verb: str, fault: Call, times: int = 10**6) -> Callable[[Any, Monitored], Any]:
    """Makes of a part one whose verb goes through that fault, called with the run and the real verb."""
    return lambda real, made: Faulty(real, made, verb, fault, times)


def failing(error: IpaError) -> Call:
    """It raises instead."""

    def fail(made: Monitored, call: Call, *arguments: object) -> object:
        raise error

    return fail


def lose_the_answer(made: Monitored, call: Call, *arguments: object) -> object:
    call(*arguments)
    raise UnavailableError("the connection was lost after the request")


def crash(made: Monitored, call: Call, *arguments: object) -> Rollout:
    return Rollout(RolloutPhase.FAILED, "its pods crash")


def slow(takes_s: float) -> Call:
    """It takes that much longer."""

    def wait(made: Monitored, call: Call, *arguments: object) -> object:
        made.wait(takes_s)
        return call(*arguments)

    return wait


def too_low(real: PeakForecaster, _made: Monitored) -> PeakForecaster:
    """Forecasts that are always somewhat too low."""

    def forecast(load: LoadHistory) -> Forecast:
        made = real(load)
        return replace(made, point_rps=0.5 * made.point_rps, upper_rps=0.55 * made.point_rps)

    return forecast


class Led:
    """Leads until faults begin."""

    made: Monitored | None = None

    def leading(self) -> bool:
        return self.made is None or self.made.monotonic_s() < FROM_S


def happening(make: Callable[[], Monitored], *what: Callable[[Monitored], None]) -> Monitored:
    """A run in which something happens when faults begin."""
    made = make()
    made.at += [(FROM_S, partial(each, made)) for each in what]
    return made


def nobody_leads() -> Monitored:
    leads = Led()
    leads.made = Monitored(steady(), leads=leads)
    return leads.made


def wrong_answers(made: Monitored) -> None:
    stage = made.pipeline.served[0]
    labels = [Feedback(at % 2, None, stage.name, stage.variants[0].name, str(at)) for at in range(1000)]
    made.loop.give_feedback(labels)


def by_another_hand(made: Monitored) -> None:
    configs = tuple(it.config for it in made.sim.cluster.states())
    other = (configs[0], replace(configs[1], replicas=configs[1].replicas + 3))
    made.sim.change(other, str(made.sim.cluster.revision))


def goes_down(made: Monitored) -> None:
    made.is_down = True


def second_leader(made: Monitored) -> None:
    made.replicas["ipa-1"] = made.registry


def api_fails(made: Monitored) -> None:
    """Each second a request, half of them answered 500."""
    times = [FROM_S + at_s for at_s in range(400)]
    made.at += [
        (at_s, partial(made.http.answered, "/v1/pipelines", "GET", 500 if int(at_s) % 2 else 200, 0.01))
        for at_s in times
    ]


def apart(faults: Sequence[Fault]) -> tuple[list[Fault], list[Fault]]:
    """The first fault of each set of alerts, and the others."""
    firsts = list({fault.fires: fault for fault in reversed(faults)}.values())
    return [it for it in faults if it in firsts], [it for it in faults if it not in firsts]


def _of(*names: str) -> frozenset[str]:
    return frozenset(names)


def wave() -> Sequence[float]:
    """A load that rises and falls fourfold in ten minutes."""
    return [4.0 + 6.0 * abs((second / 300.0) % 2 - 1) for second in range(LENGTH_S)]


OUT = (FROM_S, FROM_S + 300.0)
FAULTS: tuple[Fault, ...] = (
    Fault("none", "a steady load", lambda: Monitored(steady())),
    Fault("none", "a load that rises and falls", lambda: Monitored(wave(), forecast="ladder")),
    Fault(
        "P1",
        "Prometheus is down for 40 s",
        lambda: Monitored(steady(), metrics=MetricsSettings(outages=((FROM_S, FROM_S + 40.0),))),
    ),
    Fault(
        "P1",
        "Prometheus is down for five minutes",
        lambda: Monitored(steady(), metrics=MetricsSettings(outages=(OUT,))),
        _of("IpaInputsStale"),
    ),
    Fault(
        "P4",
        "nothing is scraped for five minutes",
        lambda: Monitored(steady(), metrics=MetricsSettings(gaps=(OUT,))),
        _of("IpaInputsStale"),
    ),
    Fault(
        "K5",
        "the API server is down",
        lambda: Monitored(steady(), workload=faulty("read", failing(UnavailableError("no answer")))),
        _of("IpaInputsStale"),
    ),
    Fault(
        "K1",
        "every write conflicts",
        lambda: Monitored(
            steady(RATE_RPS, 3 * RATE_RPS), workload=faulty("write", failing(ConflictError("it moved")))
        ),
        _of("IpaWritesConflict"),
    ),
    Fault(
        "K7",
        "the answer of a write is lost",
        lambda: Monitored(steady(RATE_RPS, 3 * RATE_RPS), workload=faulty("write", lose_the_answer, times=1)),
    ),
    Fault(
        "K12",
        "the right to write is withdrawn",
        lambda: Monitored(
            steady(RATE_RPS, 3 * RATE_RPS), workload=faulty("write", failing(ForbiddenError("no right")))
        ),
        _of("IpaWritesRefused"),
    ),
    Fault(
        "K15",
        "another hand scales a stage",
        lambda: happening(lambda: Monitored(steady()), by_another_hand),
        _of("IpaDrift"),
    ),
    Fault(
        "S1",
        "no plan meets the SLA",
        lambda: Monitored(steady(2.0, 2.0, length_s=1140), pipeline=HASTY, start=SMALLEST),
        _of("IpaInfeasible", "IpaSloBurnFast", "IpaSloBurnSlow", "IpaLatencyAboveSla"),
        OVERLOAD,
    ),
    Fault(
        "S1",
        "more load than a budget without room for a change",
        lambda: Monitored(steady(40.0, length_s=600), pipeline=POOR),
        _of("IpaNoRoom", "IpaSloBurnFast"),
        OVERLOAD,
    ),
    Fault(
        "S3",
        "the solver is killed each time",
        lambda: Monitored(
            steady(),
            policy=faulty("decide", failing(SolverError("killed at its deadline"))),
        ),
        _of("IpaSolverFailing"),
    ),
    Fault(
        "A3",
        "the disk of the store is full",
        lambda: Monitored(steady(), decisions=faulty("record", failing(UnavailableError("disk full")))),
        _of("IpaAuditFailing"),
    ),
    Fault(
        "A5",
        "a tick hangs for five minutes",
        lambda: Monitored(steady(), policy=faulty("decide", slow(300.0), times=1)),
        _of("IpaStuck"),
        _of("IpaTicksLate"),
    ),
    Fault(
        "A1",
        "every replica of the service is gone",
        lambda: happening(lambda: Monitored(steady()), goes_down),
        _of("IpaDown"),
    ),
    Fault(
        "C4",
        "ticks take 25 s",
        lambda: Monitored(steady(), policy=faulty("decide", slow(25.0))),
        _of("IpaTicksLate"),
    ),
    Fault("L1", "nobody leads", nobody_leads, _of("IpaNoLeader")),
    Fault(
        "L4",
        "two replicas lead",
        lambda: happening(lambda: Monitored(steady()), second_leader),
        _of("IpaTwoLeaders"),
    ),
    Fault(
        "W1",
        "a variant never comes up",
        lambda: Monitored(
            steady(),
            start=SMALLEST,
            cluster=ClusterSettings(broken=frozenset({("detect", "big"), ("read", "big")})),
        ),
        _of("IpaRolledBack", "IpaQuarantined"),
    ),
    Fault(
        "W2",
        "there is no room for what is needed",
        lambda: Monitored(steady(4 * RATE_RPS), cluster=ClusterSettings(capacity_cores=5.0)),
        _of("IpaRolledBack"),
        OVERLOAD | _of("IpaReplicasNotReady", "IpaQuarantined", "IpaInfeasible"),
    ),
    Fault(
        "W3",
        "taking back fails too",
        lambda: Monitored(
            steady(3 * RATE_RPS),
            workload=faulty("rollout", crash),
        ),
        _of("IpaRolledBack", "IpaRollbackFailed"),
        OVERLOAD,
    ),
    Fault(
        "W8",
        "everything takes twice as long as the profiles say",
        lambda: Monitored(steady(2 * RATE_RPS, 2 * RATE_RPS, length_s=780), true_profiles=slower(2.0)),
        _of("IpaProfileSlow"),
        OVERLOAD,
    ),
    Fault(
        "W8",
        "answers are right less often than the profiles say",
        lambda: happening(lambda: Monitored(steady(), pipeline=PROFILED), wrong_answers),
        _of("IpaAccuracyOff"),
    ),
    Fault(
        "P12",
        "requests come in bursts of two seconds",
        lambda: Monitored([(4.0 if second % 8 > 5 else 0.1) * RATE_RPS for second in range(LENGTH_S)]),
        _of("IpaCrowded"),
        OVERLOAD,
    ),
    Fault(
        "F3",
        "forecasts are half of what comes",
        lambda: Monitored(steady(length_s=1020), forecaster=too_low),
        _of("IpaForecastOff"),
        OVERLOAD,
    ),
    Fault(
        "H8",
        "half of the API's answers are faults",
        lambda: happening(lambda: Monitored(steady()), api_fails),
        _of("IpaApiFailing"),
    ),
)
