"""The inputs of a policy, and the factories of the built-in policies, which `ipa.policies.registry` names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import Enum
from functools import partial
from math import isfinite
from typing import Any, Protocol, TypeVar

from ipa.model.observation import Forecast, Observation
from ipa.model.parts import parts_of
from ipa.model.pipeline import Pipeline
from ipa.model.plan import Plan, StagePlan, Termination
from ipa.optimize.plans import STAGE_NUMBERS
from ipa.optimize.problem import Compat
from ipa.plugins import Plugin
from ipa.policies.autoscalers import Hpa, Kpa, VpaPlus
from ipa.policies.base import Policy, PolicyState, Predictor
from ipa.policies.infadapter import InfAdapter, MsPlus, SingleStagePipeline, set_question
from ipa.policies.ours import (
    RIM_REPLICAS,
    Frugal,
    Ours,
    accurate,
    fa2,
    rim,
    thrifty,
)
from ipa.policies.profiled import PlannerInputs, Profiled
from ipa.policies.registry import POLICIES
from ipa.policies.rules import RulePlanner, Static
from ipa.profiling.points import Allocation

T = TypeVar("T")
# Parts of the protocols of `ipa.policies.base` that a policy may leave out.
OPTIONAL_METHODS = frozenset({"at_once", "remember"})
# Numbers of a plan that has stages; objective, cost and latency are compared with those of others.
PLAN_NUMBERS = ("rate_rps", "objective", "pas", "cost_cores", "latency_s", "sla_s")
POSITIVE = frozenset({"cores", "rate_rps", "capacity_rps", "sla_s"})


class Runner(Protocol):
    """Calls a function of a plug-in and returns its value; it may raise PluginError instead."""

    def __call__(self, function: Callable[[], T]) -> T:
        """The function's value."""


def at_once(function: Callable[[], T]) -> T:
    """Call the function in this thread, without a limit (a `Runner`)."""
    return function()


class PluginPolicy:
    """The policy that a plug-in's factory makes, under the name of the plug-in.

    PluginError for any exception that is not an IpaError, and for a plan that does not fit the pipeline.
    """

    def __init__(self, plugin: Plugin, make: Callable[[], Policy], pipeline: Pipeline, run: Runner) -> None:
        with plugin.guarded():
            self._policy: Any = run(make)
        plugin.check_has(self._policy, "name", "decide")
        if hasattr(self._policy, "remember"):
            plugin.check_has(self._policy, "memory_kind")
        self._plugin, self._pipeline, self._run = plugin, pipeline, run

    @property
    def name(self) -> str:
        """The name by which it was found, and by which a replay finds it again."""
        return self._plugin.name

    @property
    def package(self) -> str:
        """The distribution that contains it, and its version; empty if it was named by reference."""
        return self._plugin.package

    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Plan:
        """The policy's plan. PluginError if it raises, or if the plan does not fit the pipeline."""
        with self._plugin.guarded():
            plan: Plan = self._run(lambda: self._policy.decide(observation, forecast, state))
        faults = list(plan_faults(self._pipeline, plan))
        if faults:
            raise self._plugin.fault(f"made an invalid plan: {'; '.join(faults)}")
        return plan

    def __getattr__(self, name: str) -> Any:
        """The optional parts of the protocols, which callers find by `hasattr`."""
        if name == "memory_kind":
            return self._policy.memory_kind
        if name not in OPTIONAL_METHODS:
            raise AttributeError(name)
        method = getattr(self._policy, name)

        def guarded(*arguments: Any) -> Any:
            with self._plugin.guarded():
                value = self._run(lambda: method(*arguments))
            if name == "remember" and not is_recordable(value):
                raise self._plugin.fault(
                    "has a memory that is not made of frozen dataclasses, tuples and numbers"
                )
            return value if name == "remember" else bool(value)

        return guarded


def plan_faults(pipeline: Pipeline, plan: object) -> Iterator[str]:
    """The reasons why the object is not a plan of the pipeline, in words. The engine checks bounds."""
    if not isinstance(plan, Plan):
        yield f"a {type(plan).__name__} instead of a Plan"
        return
    if not isinstance(plan.termination, Termination):
        yield f"its termination is {plan.termination!r}"
    texts = (plan.pipeline, plan.solver, plan.objective_name, plan.note, *plan.relaxations)
    if not all(isinstance(text, str) for text in texts):
        yield "its names, note or relaxations are not text"
    if not plan.stages:
        if plan.termination in (Termination.OPTIMAL, Termination.FEASIBLE):
            yield f"it is {plan.termination.value} and has no stages"
        return
    yield from _number_faults(plan, PLAN_NUMBERS, "")
    wanted = [stage.name for stage in pipeline.served]
    for part in parts_of(plan.configs):
        names = [config.stage for config in part]
        if names != wanted:
            yield f"its stages are {', '.join(map(str, names))} instead of {', '.join(wanted)}"
            return
    for stage in plan.stages:
        yield from _stage_faults(pipeline, stage)


def _stage_faults(pipeline: Pipeline, planned: StagePlan) -> Iterator[str]:
    known = [variant.name for variant in pipeline.stage(planned.stage).variants]
    if planned.variant not in known:
        yield f"stage {planned.stage} has no variant {planned.variant!r}, it has: {', '.join(known)}"
    for name in ("batch_size", "replicas"):
        value = getattr(planned, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            yield f"{planned.stage}: {name} is {value!r} instead of a whole number above 0"
    yield from _number_faults(planned, STAGE_NUMBERS, f"{planned.stage}: ")


def _number_faults(values: object, names: tuple[str, ...], where: str) -> Iterator[str]:
    for name in names:
        value = getattr(values, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            yield f"{where}{name} is {value!r} instead of a number"
        elif name in POSITIVE and value <= 0:
            yield f"{where}{name} is {value!r}, which is not above 0"


def is_recordable(memory: object) -> bool:
    """True if a record restores an equal memory: no lists, which could change later."""
    if memory is None or isinstance(memory, str | bool | int | float | Enum):
        return True
    if isinstance(memory, tuple):
        return all(map(is_recordable, memory))
    return (
        is_dataclass(memory)
        and not isinstance(memory, type)
        and type(memory).__dataclass_params__.frozen  # type: ignore[attr-defined]
        and all(is_recordable(getattr(memory, each.name)) for each in fields(memory))
    )


@dataclass(frozen=True, slots=True)
class PolicyInputs(PlannerInputs):
    """The ingredients of a policy. `objective` None is the pipeline's default."""

    def profiled(self) -> Profiled:
        """ipa's planner and predictor over these profiles."""
        return Profiled(self)

    def predictor(self) -> Predictor:
        """The predictor of configurations."""
        return self.profiled().predict

    def published(self, compat: Compat = Compat.PAPER) -> Profiled:
        """IPA's planner as published: base allocation, and the latency formula of `compat`."""
        return Profiled(self, compat=compat, allocation=Allocation.BASE)

    def ruled(self) -> RulePlanner:
        """The planner for autoscalers' rules."""
        return RulePlanner(self.pipeline, self.profiled(), self.rolling.of(self.pipeline))

    def one_task(self) -> SingleStagePipeline:
        """The set program of a single-stage pipeline; UsageError tells why there is none."""
        question = set_question(self.pipeline, self.profiles, 1.0, objective=self.objective)
        return SingleStagePipeline(self.pipeline, self.profiled(), question, self.rolling.of(self.pipeline))


@dataclass(frozen=True, slots=True)
class PolicyFactory:
    """A factory that declares what its policy needs; a plain function of `PolicyInputs` needs nothing more.

    `shares_load`: its plans may have several configurations side by side, which not every target supports.
    """

    make: Callable[[PolicyInputs], Policy]
    shares_load: bool = False

    def __call__(self, inputs: PolicyInputs) -> Policy:
        """The policy; UsageError if these inputs do not suffice."""
        return self.make(inputs)


def ours(inputs: PolicyInputs) -> Ours:
    profiled = inputs.profiled()
    return Ours(inputs.pipeline, profiled.plan, probe=profiled.probe)


def ours_frugal(inputs: PolicyInputs) -> Policy:
    cheap = replace(inputs, pipeline=thrifty(inputs.pipeline, inputs.objective)).profiled()
    exact = replace(inputs, pipeline=accurate(inputs.pipeline, inputs.objective)).published()
    return Frugal(ours(inputs), exact.plan, cheap.plan, cheap.probe)


def _published(inputs: PolicyInputs, *, name: str, compat: Compat) -> Policy:
    profiled = inputs.published(compat)
    return Ours(inputs.pipeline, profiled.plan, name, True, profiled.probe)


ipa_paper = partial(_published, name="ipa", compat=Compat.PAPER)
ipa_artifact = partial(_published, name="ipa-artifact", compat=Compat.IPA_ARTIFACT)


def _fa2(inputs: PolicyInputs, *, heavy: bool) -> Policy:
    return fa2(inputs.pipeline, inputs.published(), heavy=heavy)


fa2_low, fa2_high = partial(_fa2, heavy=False), partial(_fa2, heavy=True)


def rim_policy(inputs: PolicyInputs) -> Policy:
    most = inputs.pipeline.objective(inputs.objective).max_replicas or RIM_REPLICAS
    return rim(inputs.pipeline, inputs.published(), min(most, RIM_REPLICAS))


def _infadapter(inputs: PolicyInputs) -> Policy:
    return InfAdapter(inputs.one_task(), deadline_s=inputs.deadline_s)


infadapter = PolicyFactory(_infadapter, shares_load=True)


def ms_plus(inputs: PolicyInputs) -> Policy:
    return MsPlus(inputs.one_task())


def _autoscaler(inputs: PolicyInputs, *, rule: Callable[[RulePlanner], Policy]) -> Policy:
    return rule(inputs.ruled())


hpa, kpa, vpa_plus = (partial(_autoscaler, rule=rule) for rule in (Hpa, Kpa, VpaPlus))


def static(inputs: PolicyInputs) -> Policy:
    return Static(inputs.profiled())


def shares_load(name: str) -> bool:
    """True if its plans may have several configurations side by side. Errors: those of `POLICIES.load`."""
    return bool(getattr(POLICIES.load(name), "shares_load", False))


def make_policy(name: str, inputs: PolicyInputs, run: Runner = at_once) -> Policy:
    """The policy of that name; `run` calls each method of a plug-in, for example within a time limit.

    Errors: UsageError (no such policy, or these inputs do not suffice), PluginError.
    """
    plugin = POLICIES.find(name)
    factory = plugin.load()
    if plugin.is_ours:
        made: Policy = factory(inputs)
        return made
    if not callable(factory):
        raise plugin.fault(f"does not fit: a {type(factory).__name__} cannot be called with PolicyInputs")
    return PluginPolicy(plugin, lambda: factory(inputs), inputs.pipeline, run)
