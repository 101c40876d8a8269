"""Services for the API's tests: a pipeline under a day of load in five minutes, decided on as we would."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any, NoReturn

import httpx
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter

from ipa.api.app import create_app
from ipa.api.context import ApiContext, Streams
from ipa.bootstrap.file_edits import FileEdits
from ipa.bootstrap.pipeline_registry import Roster
from ipa.control.audit.record import (
    Chain,
    Entry,
    Head,
    Recorded,
    RecordFeed,
    SignedCheckpoint,
    Verified,
    of_control,
    of_decision,
)
from ipa.control.audit.replay import Replayer
from ipa.control.canonical import digest
from ipa.control.election import ALONE
from ipa.control.engine.actuation import ActuationPhase
from ipa.control.engine.state import ChangeRequest
from ipa.control.loop.scheduler import Scheduler, StopSignal
from ipa.control.loop.snapshot import Sample, Snapshot
from ipa.control.ports import Attribution, ControlAction, PipelineControl
from ipa.control.saved_plans import AnswerStore, PlanStore
from ipa.model.decision import Action, Decision, Mode, ReasonCode
from ipa.model.observation import (
    Attainment,
    Batches,
    Forecast,
    Loss,
    Measured,
    Missing,
    MissingReason,
    Observation,
    StageObservation,
)
from ipa.model.pipeline import Bounds, MeasuredVariant, Objective, Pipeline, Sla, Stage, Variant, chain
from ipa.model.plan import Plan, StageConfig, StagePlan, Termination
from ipa.model.probe import RequestAddress
from ipa.model.profile import ProfilePoint, StageProfile, VariantProfile
from ipa.model.resources import NO_RESOURCES, Resources
from ipa.optimize.explain import Explanation, explain
from ipa.optimize.frontier import FrontierPoint, frontier
from ipa.optimize.solve import solve
from ipa.policies.planning import PlanQuestion
from ipa.profiling.measured_accuracy import Feedback
from ipa.service.service import DependencyCheck, Service
from ipa.settings import Settings
from ipa.targets.base import Target
from ipa.targets.local.target import LOCAL
from tests.fakes.clock import VirtualClock
from tests.fakes.store import FakeAnswers, FakePlans, FakeStore


async def plan_here(question: PlanQuestion, solver: str, deadline_s: float) -> Plan:
    """The best plan for the rate."""
    return solve(question.problem(), solver, deadline_s)


async def explain_here(question: PlanQuestion, plan: Plan, deadline_s: float) -> Explanation:
    """The reasons of that plan."""
    return explain(question.problem(), plan, deadline_s)


async def frontier_here(question: PlanQuestion, deadline_s: float) -> tuple[FrontierPoint, ...]:
    """The plans that none betters."""
    return frontier(question.problem(), deadline_s)


@dataclass(frozen=True)
class FakePlanner:
    """A planner of these functions; by default they compute here."""

    plan: Callable[..., Awaitable[Plan]] = plan_here
    explain: Callable[..., Awaitable[Explanation]] = explain_here
    frontier: Callable[..., Awaitable[tuple[FrontierPoint, ...]]] = frontier_here


GPU = "nvidia.com/gpu"
NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
TICK_S = 5.0
NO_ONE = Attribution(ControlAction.MODE)


def _rung(rate: float, pas: float, latency_s: float, *configs: str) -> tuple[float, float, float, Configs]:
    stages = zip(("detect", "recognise"), (config.split() for config in configs), strict=True)
    made = (StageConfig(stage, words[0], int(words[1]), 0.5, int(words[2])) for stage, words in stages)
    return rate, pas, latency_s, tuple(made)


Configs = tuple[StageConfig, ...]
# From the least to the most load: the rate carried, PAS, p99, and variant, batch and replicas of each stage.
LADDER = (
    _rung(4.0, 0.845, 0.46, "v4-640 1 1", "v6-320 4 1"),
    _rung(8.0, 0.742, 0.55, "v4-480 2 1", "v6-320 4 2"),
    _rung(14.0, 0.588, 0.62, "v6-320 4 1", "v6-240 8 2"),
    _rung(99.0, 0.497, 0.71, "v4-320 8 2", "v6-240 8 2"),
)
ACCURACY = {"v4-320": 0.653, "v6-320": 0.773, "v4-480": 0.812, "v4-640": 0.928}
READ = {"v4-160": 0.361, "v6-240": 0.761, "v6-320": 0.914}


def a_pipeline() -> Pipeline:
    """Text of a page, in two stages."""
    return Pipeline(
        name="ocr",
        description="Text of a page: find its lines, then read each",
        stages=chain(
            [
                Stage("detect", tuple(Variant(name) for name in ACCURACY)),
                Stage("recognise", tuple(Variant(name) for name in READ)),
            ],
            [6.0],
        ),
        sla=Sla(0.9),
        objectives={"default": Objective(), "frugal": Objective("frugal", beta=1.0)},
        bounds=Bounds(cores=4.0, max_replicas=8, batch_sizes=(1, 2, 4, 8)),
    )


def a_profile(stage: str) -> StageProfile:
    accuracies = ACCURACY if stage == "detect" else READ
    points = tuple(ProfilePoint(0.5, b, 0.03 * b, 0.028 * b, 36.0) for b in (1, 2, 4, 8))
    variants = tuple(VariantProfile(name, accuracy, points) for name, accuracy in accuracies.items())
    return StageProfile("ocr", stage, variants, "2 cores", date(2026, 11, 24), "ipa profile")


def with_resources(pipeline: Pipeline, memory_gib: float | None = 16.0, gpus: int | None = 8) -> Pipeline:
    """The pipeline with bounds of memory and GPUs; a replica has 0.5 GiB, one of `detect` also a GPU."""
    measured = {
        (stage.name, variant.name): MeasuredVariant(
            0.9, Resources(0, 0.5, accelerators={GPU: 1} if stage.name == "detect" else {})
        )
        for stage in pipeline.stages
        for variant in stage.variants
    }
    kinds = {} if gpus is None else {GPU: gpus}
    bounds = replace(pipeline.bounds, memory_gib=memory_gib, accelerators=kinds, measured=measured)
    return replace(pipeline, bounds=bounds)


def rate_at(t_s: float) -> float:
    """A load that rises and falls about six-fold, with some noise that is always the same."""
    wave = 10.0 - 7.5 * math.cos(2 * math.pi * t_s / 290.0)
    return max(wave + 0.9 * math.sin(t_s * 1.7) + 0.6 * math.sin(t_s * 0.61), 0.5)


def rung_for(rate_rps: float) -> int:
    """The rung of the ladder that carries that rate."""
    return next(index for index, rung in enumerate(LADDER) if rate_rps <= rung[0])


def a_plan(rate_rps: float, rung: int | None = None) -> Plan:
    _, pas, latency_s, configs = LADDER[rung_for(rate_rps) if rung is None else rung]
    stages = tuple(
        StagePlan(
            stage=config.stage,
            variant=config.variant,
            batch_size=config.batch_size,
            cores=config.cores,
            replicas=config.replicas,
            rate_rps=rate_rps * (6 if config.stage == "recognise" else 1),
            capacity_rps=rate_rps * (6 if config.stage == "recognise" else 1) / config.replicas / 0.8,
            latency_s=latency_s / 3,
            queue_delay_s=latency_s / 6,
            utilisation_ratio=0.8,
            accuracy=(ACCURACY if config.stage == "detect" else READ)[config.variant],
        )
        for config in configs
    )
    cores = sum(config.total_cores for config in configs)
    objective = pas - 0.1 * cores
    return Plan(
        "ocr", rate_rps, Termination.OPTIMAL, "highs", objective, objective, 0.0, pas, cores, latency_s, 0.9,
        0.012, stages, note="auto took highs: gurobi has no licence here",
    )  # fmt: skip


@dataclass(frozen=True)
class FakeLoop:
    """A control loop: its snapshots, and what it does with a request."""

    snapshot: Callable[[], Snapshot]
    tick_once: Callable[[ChangeRequest], Decision]
    policy: str = "ours"
    give_feedback: Callable[[Sequence[Feedback]], int] = len


@dataclass
class FakeWorld(FakeStore):
    """Decisions, controls and a loop, in memory. `tick` moves it on; `failing` makes routes fail."""

    ticks: int = 0
    clock: VirtualClock = field(default_factory=partial(VirtualClock, NOW))
    written: list[Recorded] = field(default_factory=list)
    # Of each pipeline, how many entries the record has and the digest of the newest.
    heads: dict[str, tuple[int, str]] = field(default_factory=dict)
    history: list[Sample] = field(default_factory=list)
    rung: int = 0
    calm: int = 0
    applied_tick: int = -99
    metrics_fail: bool = False
    slo_broken: bool = False
    # The resources of what runs beside its cores.
    held: Resources = NO_RESOURCES
    # The loops of policies beside.
    beside: dict[str, FakeLoop] = field(default_factory=dict)
    plans: PlanStore = field(default_factory=FakePlans)
    answers: AnswerStore = field(default_factory=FakeAnswers)
    checks: tuple[DependencyCheck, ...] = (
        DependencyCheck("store", True, required=True),
        DependencyCheck("prometheus", True),
    )

    def __post_init__(self) -> None:
        super().__init__(PipelineControl(mode=Mode.ACTIVE))

    def services(self) -> ApiContext:
        """The use cases over this world, behind the API."""
        registry = CollectorRegistry()
        roster = self.roster()
        Counter("ipa_test", "Something to scrape.", registry=registry).inc()
        return ApiContext(
            service=Service(
                pipelines=roster.pipelines,
                registry=roster,
                log=self,
                controls=self,
                record_of=str,
                record_owner=lambda _: None,
                verify=self.verify,
                plans=self.plans,
                answers=self.answers,
                planner=FakePlanner(self.plan),
                replayer=Replayer(self),
                standing=lambda: ALONE,
                health=lambda: self.checks,
                clock=self.clock,
                settings=Settings(tick_s=TICK_S),
            ),
            registry=registry,
            record=self,
            # What answers in this process is read to its end, so that streams end once they have caught up.
            streams=Streams(RecordFeed(self, self.clock.monotonic_s, poll_s=0.0), longest_s=0.0),
        )

    def roster(self) -> Roster:
        """The pipeline as one of a file, controlled by this world, and place for others that are not."""

        # Looked up at each call: tests put others in the place of these.
        def snapshot() -> Snapshot:
            return self.snapshot()

        def request(wanted: ChangeRequest) -> Decision:
            return self.answer(wanted)

        return Roster(
            {"ocr": a_pipeline()},
            {"ocr": {"detect": a_profile("detect"), "recognise": a_profile("recognise")}},
            {"ocr": FakeLoop(snapshot, request)},  # type: ignore[dict-item]
            self.beside,  # type: ignore[arg-type]
            FakeFactory(self),  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
            self.clock,
            threading.Event(),
            Scheduler(lambda _: self.clock, StopSignal()),
            FileEdits(Path("pipelines"), Path("profiles"), self.clock.now),
        )

    def record(self, decision: Decision) -> None:
        super().record(decision)
        self.note(of_decision(decision, digest(decision.decision_id)))

    def set_control(
        self, pipeline: str, control: PipelineControl, attribution: Attribution | None = None
    ) -> None:
        was, at = self.control(pipeline), self.clock.now().isoformat()
        self.note(of_control(pipeline, was, control, attribution or NO_ONE, at))
        super().set_control(pipeline, control)

    def note(self, entry: Entry) -> None:
        """Put it at the end of the record."""
        number, previous = self.heads.get(entry.pipeline, (0, ""))
        text = entry.text(len(self.written) + 1, number + 1, previous)
        self.written.append(Recorded(text))
        self.heads[entry.pipeline] = number + 1, self.written[-1].digest

    def entries(self, after: int, limit: int, pipeline: str | None = None) -> list[Recorded]:
        entries = [each for each in self.written[after:] if pipeline in (None, each.values["pipeline"])]
        return entries[:limit]

    def checkpoints(self, after: int, pipeline: str | None = None) -> tuple[SignedCheckpoint, ...]:
        """None: nothing is ever removed here."""
        return ()

    def newest_seq(self) -> int:
        """The number of the newest entry."""
        return len(self.written)

    def verify(self, pipeline: str, anchor: Head | None = None) -> Verified:
        chain = Chain(pipeline, anchor)
        for each in self.entries(0, len(self.written), pipeline):
            chain.add(each.text, each.digest)
        return chain.ended()

    async def plan(self, question: PlanQuestion, solver: str, deadline_s: float) -> Plan:
        """The plan of the ladder; infeasible where the SLA is under 0.2 s."""
        objective = question.pipeline.objective(question.objective)
        assert question.compat and question.allocation and solver and deadline_s
        plan = a_plan(question.rate_rps)
        if (objective.sla_s or question.pipeline.sla.latency_s) >= 0.2:
            return plan
        return replace(
            plan, termination=Termination.INFEASIBLE, objective=None, bound=None, gap=None, pas=None,
            cost_cores=None, latency_s=None, stages=(), relaxations=("SLA ≥ 0.31 s",),
        )  # fmt: skip

    def apply(self, configs: Configs, detail: str, by: str = "") -> Decision:
        """The loop's answer to a request of these."""
        return self.answer(ChangeRequest(configs, detail, by=by))

    def answer(self, wanted: ChangeRequest) -> Decision:
        """The loop's answer to a request."""
        configs, detail = wanted.configs, wanted.detail
        if self.recorded:
            changes = zip(self.recorded[-1].configs, configs, strict=True)
            detail += ": " + ", ".join(f"{old} → {new}" for old, new in changes if old != new)
        if self.failing:
            raise self.failing
        self.rung = next((i for i, rung in enumerate(LADDER) if rung[3] == configs), self.rung)
        self.ticks += 1
        by, undoes = wanted.by, wanted.undoes
        return self._decide(
            ReasonCode.REQUESTED, detail, configs, rate=0.0, plan_id=wanted.plan_id, by=by, undoes=undoes
        )

    def play(self, ticks: int) -> FakeWorld:
        """Move on by so many ticks."""
        for _ in range(ticks):
            self.tick()
        return self

    def tick(self) -> None:
        """One pass over the load: forecast, plan, decide, as the loop does."""
        self.clock.wait(TICK_S)
        self.ticks += 1
        rate = rate_at(self.ticks * TICK_S)
        forecast = self._forecast(rate)
        wanted = rung_for(forecast.upper_rps)
        running = LADDER[self.rung][3]
        plan = a_plan(forecast.upper_rps)
        self.calm = self.calm + 1 if wanted < self.rung else 0
        control = self.control("ocr")
        decide = partial(self._decide, rate=rate)
        if self.metrics_fail:
            decide(ReasonCode.METRICS_MISSING, "Prometheus did not answer", running)
        elif control.paused:
            decide(ReasonCode.PAUSED, f"paused: {control.paused_reason}", running)
        elif wanted > self.rung or self.calm >= 4:
            reason = ReasonCode.SWITCH_VARIANT
            if self.rung == 3 or wanted == 3:
                reason = ReasonCode.SCALE_UP if wanted > self.rung else ReasonCode.SCALE_DOWN
            detail = f"λ {rate:.1f} → {forecast.upper_rps:.1f} rps; PAS {LADDER[self.rung][1]} → {plan.pas}"
            self.rung, self.calm, self.applied_tick = wanted, 0, self.ticks
            decide(reason, detail, plan.configs, plan=plan, forecast=forecast)
        elif self.calm:
            detail = f"a lower plan was best {self.calm} of 4 ticks"
            decide(ReasonCode.STABILISING, detail, running, plan=plan, forecast=forecast)
        else:
            detail = "the running plan is best"
            decide(ReasonCode.NO_CHANGE, detail, running, plan=plan, forecast=forecast)

    def _forecast(self, rate: float) -> Forecast:
        ahead = rate_at((self.ticks + 4) * TICK_S)
        return Forecast(max(rate, ahead), 1.12 * max(rate, ahead) + 0.5, 0.95, 20.0, "holt-winters", 1.0)

    def _decide(
        self,
        reason: ReasonCode,
        detail: str,
        configs: Configs,
        *,
        rate: float,
        plan: Plan | None = None,
        forecast: Forecast | None = None,
        plan_id: str = "",
        by: str = "",
        undoes: str = "",
    ) -> Decision:
        before = self.recorded[-1].configs if self.recorded else configs
        action = Action.APPLY if reason.startswith("apply.") else Action.HOLD
        decision = Decision(
            decision_id=f"ocr-{self.ticks:04d}-{len(self.recorded)}", pipeline="ocr", tick=self.ticks,
            at=self.clock.now().isoformat(), action=action, reason=reason, detail=detail, configs=configs,
            previous=before, mode=Mode.ACTIVE, revision=str(self.applied_tick), observed_rate_rps=rate,
            observed_latency_s=self._latency(rate), forecast=forecast, plan=plan,
            plan_id=plan_id, by=by, undoes=undoes, attainment=self.ended,
            slo_broken=self.slo_broken and self.ended is not None,
        )  # fmt: skip
        self.record(decision)
        self.history.append(
            Sample(
                at=decision.at, rate_rps=None if self.metrics_fail else rate,
                forecast_rps=forecast.point_rps if forecast else None,
                forecast_upper_rps=forecast.upper_rps if forecast else None,
                latency_s=None if self.metrics_fail else self._latency(rate),
                cores=sum(config.total_cores for config in configs), pas=LADDER[self.rung][1],
                reason=reason.value,
                predicted_latency_s=None if self.metrics_fail else 0.9 * self._latency(rate),
                beside=self.held, slo_broken=decision.slo_broken,
                in_time_ratio=self.ended.in_time_ratio if self.ended else None,
                dropped_rps=self.ended.dropped_rps if self.ended else None,
                failed_rps=self.ended.failed_rps if self.ended else None,
                retried_rps=self.ended.retried_rps if self.ended else None,
                busy={"detect": 0.72, "recognise": min(1.0, 0.06 * rate)},
            )
        )  # fmt: skip
        return decision

    @property
    def ended(self) -> Attainment | None:
        """The requests that ended lately; while the SLO is broken some were dropped or failed."""
        if self.metrics_fail:
            return None
        losses = (Loss("recognise", "overload", 45.0), Loss("detect", "model_error", 6.0))
        return Attainment(200.0, 0.6, 15.0, losses, 3.0) if self.slo_broken else Attainment(200.0, 1.0, 15.0)

    def _latency(self, rate: float) -> float:
        most, _, latency_s, _ = LADDER[self.rung]
        return latency_s * (0.75 + 0.3 * min(rate / min(most, 20.0), 1.5)) + 0.03 * math.sin(self.ticks * 2.1)

    def snapshot(self) -> Snapshot:
        """The status that the loop would show."""
        if self.failing:
            raise self.failing
        decision = self.recorded[-1] if self.recorded else None
        rate = rate_at(self.ticks * TICK_S)
        forecast = self._forecast(rate)
        missing = Missing(MissingReason.UNREACHABLE, "Prometheus did not answer")
        fresh = self.ticks - self.applied_tick < 1
        stages = tuple(
            StageObservation(
                stage=config.stage,
                running=Measured(config),
                ready_replicas=Measured(config.replicas - (1 if fresh and config.replicas > 1 else 0)),
                arrival_rate_rps=Measured(rate * (6 if config.stage == "recognise" else 1)),
                latency_s=Measured(self._latency(rate) * (0.4 if config.stage == "detect" else 0.6)),
                queue_length=Measured(float(self.ticks % 4)),
                batches=Measured(Batches(20.0, 0.36 * config.replicas, 2.0, 10.0)),
            )
            for config in (decision.configs if decision else LADDER[self.rung][3])
        )
        observation = Observation(
            "ocr", self.clock.monotonic_s(), missing if self.metrics_fail else Measured(rate), missing,
            missing if self.metrics_fail else Measured(self._latency(rate)), stages,
            revision=str(self.applied_tick), settled=not fresh,
            attainment=Measured(self.ended) if self.ended else missing,
        )  # fmt: skip
        return Snapshot(
            "ocr", self.ticks, self.control("ocr"),
            ActuationPhase.WAITING_READY if fresh else ActuationPhase.IDLE,
            history=tuple(self.history[-180:]), observation=observation if self.recorded else None,
            forecast=forecast if self.recorded else None,
            plan=a_plan(forecast.upper_rps, self.rung) if self.recorded else None, decision=decision,
            next_tick_at=self.clock.now() + timedelta(seconds=TICK_S), tick_s=0.02,
            is_late=self.slo_broken,
        )  # fmt: skip


def over(
    context: ApiContext,
    *,
    pipelines: Mapping[str, Pipeline] | None = None,
    profiles: Mapping[str, StageProfile] | None = None,
    loops: Mapping[str, FakeLoop] | None = None,
    request: Callable[..., Decision] | None = None,
    plan: Callable[..., Awaitable[Plan]] | None = None,
    **parts: Any,
) -> ApiContext:
    """The context with other parts of its service.

    `pipelines` are there instead of `ocr`, and are as it is; `profiles` are those of each. `request` takes
    the place of what a loop does with a request, `plan` that of the planner's plans.
    """
    service = context.service
    registry: Any = service.registry
    if plan is not None:
        parts["planner"] = replace(service.planner, plan=plan)  # type: ignore[type-var]
    if pipelines is not None or profiles is not None or request is not None or loops is not None:
        named = dict(registry.pipelines if pipelines is None else pipelines)
        like = registry.loops["ocr"] if request is None else replace(registry.loops["ocr"], tick_once=request)
        known = registry.profiles
        registry = replace(
            registry,
            pipelines=named,
            profiles={name: profiles or known.get(name, known["ocr"]) for name in named},
            loops=dict.fromkeys(named, like) if loops is None else dict(loops),
        )
        parts |= {"pipelines": named, "registry": registry}
    return replace(context, service=replace(service, **parts))


def solving(context: ApiContext) -> ApiContext:
    """The context with plans that are solved for, instead of the ladder's."""
    return over(context, planner=FakePlanner())


class FakeFactory:
    """Pipelines that are planned, and not controlled here; they would run on the `target`."""

    def __init__(self, store: FakeStore | None = None, target: Target = LOCAL) -> None:
        self._store, self.target = store, target

    def both(self, pipeline: Pipeline, profiles: Mapping[str, StageProfile]) -> NoReturn:
        """None: it would fail the test."""
        raise AssertionError(f"{pipeline.name} is not controlled here")

    def profiles(self, pipeline: Pipeline) -> Mapping[str, StageProfile]:
        assert self._store is not None
        return self._store.profiles(pipeline.name)

    def shaped(self, pipeline: Pipeline, profiles: Mapping[str, StageProfile]) -> Pipeline:
        return pipeline

    def address(self, pipeline: Pipeline) -> RequestAddress:
        """The target's answer; locally at a port that nobody listens on."""
        return self.target.address(pipeline, Settings(), "http://127.0.0.1:9")

    def check(self, pipeline: Pipeline) -> None:
        """Take it as it is."""

    begin = end = check


# Many may ask at once, and the cache alone would let each of them start one.
_STARTING = threading.Lock()


def _event_loop() -> asyncio.AbstractEventLoop:
    """The one of all applications in this process, as a server has one."""
    with _STARTING:
        return _started_loop()


@cache
def _started_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="applications", daemon=True).start()
    return loop


class InProcess(httpx.BaseTransport):
    """Carries requests to an application in this process, without a socket."""

    def __init__(self, services: ApiContext, app: FastAPI | None = None) -> None:
        self._transport = httpx.ASGITransport(app or create_app(services))

    def handle_request(self, request: httpx.Request) -> httpx.Response:

        async def send() -> httpx.Response:
            async with httpx.AsyncClient(transport=self._transport) as client:
                return await client.send(request)

        answer = asyncio.run_coroutine_threadsafe(send(), _event_loop()).result()
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


class ApiClient:
    """Requests to an application in this process."""

    def __init__(
        self, services: ApiContext, base_url: str = "http://127.0.0.1:8080", app: FastAPI | None = None
    ) -> None:
        self._client = httpx.Client(transport=InProcess(services, app), base_url=base_url)

    def __call__(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self._client.request(method, path, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self("GET", path, **options)

    def post(self, path: str, json: Any = None, **options: Any) -> httpx.Response:
        """The response to POST of that JSON."""
        return self("POST", path, json=json, **options)

    def change(self, path: str, json: Any = None, pipeline: str = "ocr") -> httpx.Response:
        """The response to POST of that JSON, made for what the status says now."""
        tag = self.get(f"/v1/pipelines/{pipeline}/status").headers["etag"]
        return self.post(path, json, headers={"If-Match": tag})
