"""The pipelines of the service, which may be added and removed over the API, with policies and loops."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ipa.adapters.forecasting import ForecastSetup
from ipa.adapters.kube.lease import LeaseLeadership, TermLeadership
from ipa.adapters.kube.watch import Watchers
from ipa.adapters.metrics.publish import Catalogue
from ipa.adapters.solvers.supervised import supervised
from ipa.adapters.store.store import Store
from ipa.bootstrap.file_edits import FileEdits
from ipa.bootstrap.targets import ServeOptions, check_carried, check_sharing, find_target
from ipa.control.canonical import canonical_json, digest
from ipa.control.engine.actuation import IN_FLIGHT
from ipa.control.engine.tick import made_of
from ipa.control.loop.control_loop import ControlLoop, Hook, LoopPorts
from ipa.control.loop.scheduler import ScheduledLoop, Scheduler, StopSignal
from ipa.control.loop.time_limit import TimeLimit
from ipa.control.ports import Attribution, Clock, ControlAction, PipelineControl
from ipa.files import load_profiles, pipeline_from_mapping, pipeline_to_mapping
from ipa.model.errors import ConflictError, InProgressError, InputError, IpaError, NotFoundError, UsageError
from ipa.model.measured import with_profiles
from ipa.model.pipeline import Pipeline
from ipa.model.probe import RequestAddress
from ipa.model.profile import StageProfile
from ipa.optimize.solve import SolveCache
from ipa.policies.base import Policy
from ipa.policies.registry import POLICIES
from ipa.policies.table import PolicyInputs, make_policy
from ipa.profiling.findings import doubts, measure_command, remedy_of_doubt
from ipa.service.service import PipelineEdit
from ipa.service.simulation import guards_of
from ipa.settings import Settings
from ipa.targets.base import Adopting, Target

# What a policy is made of, and itself.
Chosen = tuple[PolicyInputs, Policy]
Profiles = Mapping[str, StageProfile]
log = logging.getLogger("ipa.roster")
# A loop that ends may have a tick under way, and that a write.
END_S = 15.0
SHARED_PLANS = SolveCache(512)  # several ticks of a thousand copies of a pipeline, and soon looked through


def make_inputs(
    settings: Settings, options: ServeOptions, pipeline: Pipeline, profiles: Mapping[str, StageProfile]
) -> PolicyInputs:
    """The inputs from which the policies of a pipeline are constructed."""
    return PolicyInputs(
        pipeline,
        profiles,
        options.objective,
        settings.solver,
        settings.solver_deadline_s,
        supervised,
        find_target(settings).serving(pipeline).rolling,
        plans=SHARED_PLANS,
    )


def choose_policy(name: str, inputs: PolicyInputs, limit_s: float) -> Chosen:
    """The policy of that name, with its inputs; a plug-in must answer within `limit_s`.

    Errors: UsageError (no such policy, or not for this pipeline), PluginError.
    """
    return inputs, make_policy(name, inputs, TimeLimit(str(POLICIES.find(name)), limit_s))


def assemble_loop(
    settings: Settings,
    sight: ForecastSetup,
    chosen: Chosen,
    world: LoopPorts,
    hooks: Sequence[Hook],
    waker: threading.Event,
    is_beside: bool = False,
) -> ControlLoop:
    """The loop of one pipeline, not yet started; setting `waker` ends its clock's wait for the next tick."""
    inputs, policy = chosen
    return ControlLoop(
        inputs.pipeline,
        world,
        policy=policy,
        predict=inputs.predictor(),
        forecaster=sight.of(inputs.pipeline, inputs.profiles),
        settings=guards_of(settings),
        window_s=sight.window_s,
        run_id=uuid.uuid4().hex[:8],
        made_of=made_of(inputs),
        on_decision=hooks,
        waker=waker,
        is_beside=is_beside,
    )


@dataclass(frozen=True, slots=True)
class PipelineFactory:
    """A factory of each pipeline's loops, and of its profiles, metrics and watches."""

    settings: Settings
    target: Target
    options: ServeOptions
    sight: ForecastSetup
    world: LoopPorts
    leadership: LeaseLeadership | None
    hooks: tuple[Hook, ...]
    stop: StopSignal
    store: Store
    catalogue: Catalogue
    # Base URL that takes a pipeline's requests, if the target knows it.
    endpoints: Mapping[str, str] = field(default_factory=dict)
    # None if nothing is watched.
    watchers: Watchers | None = None
    # None if the workload need not be told of changed pipelines.
    adopting: Adopting | None = None

    def make_loop(self, chosen: Chosen) -> ControlLoop:
        """The loop of a pipeline, not yet started; UsageError: its mode writes, and the target does not."""
        inputs, waker = chosen[0], self.stop.linked()
        pipeline = inputs.pipeline
        if self.store.control(pipeline.name).mode.writes:
            self.target.check_acts(pipeline)
            for doubt in doubts(pipeline.served, inputs.profiles):
                remedy = remedy_of_doubt(pipeline.name, doubt.stage, planned_only=not pipeline.runnable)
                log.warning("%s: its plans may be wrong: %s; %s", pipeline.name, doubt, remedy)
        return assemble_loop(self.settings, self.sight, chosen, self._own(waker), self.hooks, waker)

    def beside(self, chosen: Chosen) -> ControlLoop:
        """The loop of a shadow policy, which decides and writes nothing."""
        waker = self.stop.linked()
        return assemble_loop(self.settings, self.sight, chosen, self._own(waker), (), waker, is_beside=True)

    def _own(self, waker: threading.Event) -> LoopPorts:
        """The ports of one loop, with a leadership that reveals interruptions since its last check."""
        clock = self.target.clock(waker, self.options.simulated)
        if self.leadership is None:
            return replace(self.world, clock=clock)
        return replace(self.world, clock=clock, leadership=TermLeadership(self.leadership))

    def both(self, pipeline: Pipeline, profiles: Profiles) -> tuple[ControlLoop, ControlLoop | None]:
        """The loop of a pipeline and its shadow loop, if any; UsageError if a policy cannot plan it."""
        check_sharing(self.target, [pipeline], self.options.policy)
        inputs = make_inputs(self.settings, self.options, pipeline, profiles)
        other, limit_s = self.options.shadow_policy, self.settings.tick_s
        chosen = choose_policy(self.options.policy, inputs, limit_s)
        shadow = self.beside(choose_policy(other, inputs, limit_s)) if other else None
        return self.make_loop(chosen), shadow

    def check(self, pipeline: Pipeline) -> None:
        """InputError or UsageError if the pipeline has keys without effect on this target."""
        # A pipeline that the target cannot run may have such keys: it is only planned.
        if not self.target.unfit(pipeline):
            check_carried(self.target, [pipeline], self.options.policy)

    def profiles(self, pipeline: Pipeline) -> Profiles:
        """The profiles that were set over the API, else those of the files."""
        try:
            files: Profiles = load_profiles(self.settings.profiles_dir, pipeline.name)
        except NotFoundError:
            files = {}
        return {**files, **self.store.profiles(pipeline.name)}

    def shaped(self, pipeline: Pipeline, profiles: Profiles) -> Pipeline:
        """The pipeline as it runs on this target."""
        return with_profiles(self.target.shape(pipeline, profiles), profiles)

    def address(self, pipeline: Pipeline) -> RequestAddress:
        """The address for the pipeline's requests, or the reason why there is none."""
        return self.target.address(pipeline, self.settings, self.endpoints.get(pipeline.name, ""))

    def begin(self, pipeline: Pipeline) -> None:
        """Create the metrics and the watch of an added pipeline."""
        self.catalogue.start(pipeline)
        if self.watchers is not None:
            self.watchers.add(pipeline)

    def end(self, pipeline: Pipeline) -> None:
        """Remove the metrics and the watch of a removed pipeline."""
        self.catalogue.end(pipeline)
        if self.watchers is not None:
            self.watchers.remove(pipeline)


@dataclass(frozen=True, slots=True)
class _Made:
    pipeline: Pipeline
    profiles: Profiles
    unfit: str
    loop: ControlLoop | None = None
    other: ControlLoop | None = None


@dataclass
class Roster:
    """The pipelines by name, with their profiles and loops.

    The initial ones in `pipelines` come from files, and change with these; others are added, changed and
    removed over the API and kept in the store. The mappings change in place: read them key by key.
    """

    pipelines: dict[str, Pipeline]
    profiles: dict[str, Profiles]
    loops: dict[str, ControlLoop]
    beside: dict[str, ControlLoop]
    makers: PipelineFactory
    store: Store
    clock: Clock
    stop: threading.Event
    turns: Scheduler
    edits: FileEdits
    # Those that may be taken up from the store; empty for all.
    only: frozenset[str] = frozenset()
    # How often the stored pipelines are read again; None without another replica.
    follow_s: float | None = None
    # How often it is looked whether files were edited.
    look_s: float = 2.0
    files: frozenset[str] = frozenset()
    _records: dict[str, str] = field(default_factory=dict)
    _unfit: dict[str, str] = field(default_factory=dict)
    _turns: dict[str, list[ScheduledLoop]] = field(default_factory=dict)
    _started: bool = False
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.files = frozenset(self.pipelines)

    def start(self) -> None:
        """Schedule every loop; many first ticks are spread over the interval."""
        with self._lock:
            self._started = True
            names = list(self.loops)
            is_crowd = len(names) > self.turns.workers
            for number, name in enumerate(names):
                tick_s = self.loops[name].tick_s
                self._start(name, tick_s * number / len(names) if is_crowd else 0.0)
        if self.follow_s is not None:
            self._repeat(self.follow_s, self.sync, "roster")
        self._repeat(self.look_s, self.look, "edits")

    def look(self) -> None:
        """Apply, or refuse, the edits of files since the last call."""
        with self._lock:
            self.edits.look(self.pipelines, self.profiles, self.exchange)

    def join(self, within_s: float) -> None:
        """Wait at most `within_s` real seconds for the loops to end. The caller sets `stop` first."""
        self.turns.join(within_s)

    def unfit(self, name: str) -> str:
        """The reason why no loop runs for the pipeline; empty if one runs."""
        return self._unfit.get(name, "")

    def address(self, pipeline: Pipeline) -> RequestAddress:
        """The address for the pipeline's requests, or the reason why there is none."""
        return self.makers.address(pipeline)

    def edit(self, name: str) -> PipelineEdit | None:
        """The latest edit of the pipeline's files while it ran; None if there was none."""
        return self.edits.latest(name)

    def version(self, pipeline: Pipeline) -> str:
        """The version of a pipeline, which changes with anything in its file."""
        return digest(canonical_json(pipeline_to_mapping(pipeline)))[:32]

    def give(self, pipeline: Pipeline, attribution: Attribution) -> None:
        """Add or replace the pipeline, and control it at once if it can run here; a new one is advisory.

        A pipeline that moves to another namespace counts as new: it keeps neither its control nor its record.
        Errors: ConflictError (it comes from a file, or exists and is not to be replaced), InProgressError (a
        change of it is rolling out), UsageError (the policy cannot plan it), InputError (keys without effect
        here).
        """
        name = pipeline.name
        with self._lock:
            is_new = attribution.deed is ControlAction.GIVE
            self._check_free(name)
            self._check_idle(name)
            if not self._wants(name):
                raise ConflictError(
                    f"this service controls only {', '.join(sorted(self.only))}, "
                    f"and would not know {name!r} after a restart",
                    hint=f"Start it without names (`ipa serve`), or with {name} among them.",
                )
            if is_new and name in self.pipelines:
                raise ConflictError(
                    f"pipeline {name!r} already exists",
                    hint=f"PUT /v1/pipelines/{name} replaces a pipeline that was created over the API.",
                )
            self.makers.check(pipeline)
            ready = self._made(pipeline)
            old = self.pipelines.get(name)

            def keep() -> None:
                self.store.given.keep(name, pipeline_to_mapping(pipeline))

            if old is not None and old.namespace == pipeline.namespace:
                self._swap(ready, attribution, keep)
                return
            if old is not None:
                self._retire(old, attribution)
            self.store.records.begin(name, pipeline.namespace)
            # Without profiles and doubts of an earlier pipeline of this name.
            ready = self._made(pipeline)
            self.store.set_control(name, PipelineControl(), attribution)
            keep()
            self._end(name)
            self._take(ready)

    def exchange(self, pipeline: Pipeline, profiles: Profiles, attribution: Attribution) -> None:
        """Control the pipeline by its changed file.

        Its running replicas stay, except those that the file changes. Errors: InProgressError, ConflictError
        (it must be restarted), InputError and UsageError (as at a start). After an error nothing has changed.
        """
        with self._lock:
            name, is_profiled = pipeline.name, profiles != self.profiles[pipeline.name]
            self._check_idle(name)
            check_carried(self.makers.target, [pipeline], self.makers.options.policy)
            if self.makers.adopting is not None:
                self.makers.adopting.check(pipeline)
            missing = ", ".join(stage.name for stage in pipeline.served if stage.name not in profiles)
            if missing:
                command = measure_command(name, planned_only=not pipeline.runnable)
                raise InputError(f"there is no profile of {missing}", hint=f"Measure it: `{command}`.")
            shaped = self.makers.shaped(pipeline, profiles)
            made = _Made(shaped, profiles, "", *self.makers.both(shaped, profiles))

            def keep() -> None:
                for profile in profiles.values() if is_profiled else ():
                    self.store.save_profile(profile)

            # Every replica reads the files; the leader writes the record.
            leadership = self.makers.leadership
            leads = leadership is None or leadership.leading()
            self._swap(made, attribution if leads else None, keep)

    def _swap(self, made: _Made, attribution: Attribution | None, keep: Callable[[], None]) -> None:
        """Replace the loops; record and `keep` the change if it has an attribution.

        The new loops show the old ones' last snapshot, and restore what those learned from the record.
        """
        name = made.pipeline.name
        old = self.loops.get(name)
        self._end(name)
        try:
            if attribution is not None:
                self.store.set_control(name, self.store.control(name), attribution)
                keep()
        except IpaError:
            self._start(name)
            raise
        if name in self.files and self.makers.adopting is not None:
            self.makers.adopting.adopt(made.pipeline)
        if old is not None and made.loop is not None:
            made.loop.succeed(old)
        self._take(made)

    def give_profile(self, profile: StageProfile, attribution: Attribution) -> None:
        """Store the profile as the newest of its stage, and plan with it from now on. Errors: as `give`."""
        name = profile.pipeline
        with self._lock:
            self._check_free(name)
            self._check_idle(name)
            self.store.set_control(name, self.store.control(name), attribution)
            self.store.save_profile(profile)
            ready = self._made(self.pipelines[name])
            self._end(name)
            self._take(ready)

    def remove(self, name: str, attribution: Attribution) -> str:
        """Stop controlling the pipeline and delete it; return what stays, in words. Errors: as `give`.

        Its workload keeps running: people may still use it.
        """
        with self._lock:
            self._check_free(name)
            self._check_idle(name)
            pipeline = self.pipelines[name]
            ran = name in self.loops
            self._retire(pipeline, attribution)
        if not ran:
            return "it was not controlled here; its decisions stay in the record"
        return "it is no longer controlled; its workload goes on, and its decisions stay in the record"

    def sync(self) -> None:
        """Load the pipelines and profiles that another replica has stored."""
        with self._lock:
            # In this order: a replica begins a pipeline's record before it stores it.
            created = {name: each for name, each in self.store.given.all().items() if self._wants(name)}
            self.store.records.read()
            for name in [name for name in self.pipelines if name not in self.files and name not in created]:
                self._end(name)
                self._drop(self.pipelines[name])
            for name, mapping in created.items():
                self._sync(name, mapping)

    def _wants(self, name: str) -> bool:
        return name not in self.files and (not self.only or name in self.only or name in self.pipelines)

    def _repeat(self, every_s: float, act: Callable[[], None], name: str) -> None:
        def run() -> None:
            while not self.stop.wait(every_s):
                try:
                    act()
                except IpaError as error:
                    log.warning("the pipelines created at other replicas are not known: %s", error.message)

        threading.Thread(target=run, name=name, daemon=True).start()

    def _sync(self, name: str, mapping: Any) -> None:
        try:
            pipeline = pipeline_from_mapping(mapping)
            record = self.store.records.adopt(name, pipeline.namespace)
            if record is None:
                # Another replica is changing it right now; the next look sees the result.
                return
            here = self.pipelines.get(name)
            # An earlier version may have stored keys that no longer have a meaning.
            same = here is not None and pipeline_to_mapping(here) == pipeline_to_mapping(pipeline)
            if (
                same
                and self._records.get(name) == record
                and self.profiles.get(name) == self.makers.profiles(pipeline)
            ):
                return
            self._check_idle(name)
            try:
                self.makers.check(pipeline)
            except (InputError, UsageError) as error:
                # Keys without effect, which an earlier version accepted: keep controlling the pipeline.
                log.warning("the pipeline %s: %s", name, error)
            ready = self._made(pipeline)
        except IpaError as error:
            # Start the service anyway: the pipeline can only be repaired over its API.
            log.error("the pipeline %s, which was created over the API, is not controlled: %s", name, error)
            return
        self._end(name)
        self._take(ready)

    def _made(self, pipeline: Pipeline) -> _Made:
        """The new pipeline with its profiles and loops; every step that can fail is done here."""
        profiles = self.makers.profiles(pipeline)
        shaped = self.makers.shaped(pipeline, profiles)
        missing = ", ".join(stage.name for stage in shaped.served if stage.name not in profiles)
        unfit = self.makers.target.unfit(shaped) or (f"there is no profile of {missing}" if missing else "")
        if unfit:
            return _Made(shaped, profiles, unfit)
        return _Made(shaped, profiles, "", *self.makers.both(shaped, profiles))

    def _take(self, made: _Made) -> None:
        name = made.pipeline.name
        for mapping in (self.loops, self.beside):
            mapping.pop(name, None)
        self._records[name] = self.store.records.of(name)
        self.profiles[name], self._unfit[name] = made.profiles, made.unfit
        if made.loop is not None:
            self.loops[name] = made.loop
            self.makers.begin(made.pipeline)
        if made.other is not None:
            self.beside[name] = made.other
        self.pipelines[name] = made.pipeline
        if self._started:
            self._start(name)

    def _drop(self, pipeline: Pipeline) -> None:
        name = pipeline.name
        for mapping in (self.pipelines, self.loops, self.beside, self.profiles, self._unfit):
            mapping.pop(name, None)
        self.makers.end(pipeline)
        self._records.pop(name, None)

    def _retire(self, pipeline: Pipeline, attribution: Attribution) -> None:
        """Stop controlling the pipeline, and delete everything about it except its record."""
        name = pipeline.name
        self._end(name)
        try:
            self.store.set_control(name, PipelineControl(), attribution)
            self.store.given.remove(name)
        except IpaError:
            self._start(name)
            raise
        self._drop(pipeline)
        self.store.end_record(name)

    def _start(self, name: str, after_s: float = 0.0) -> None:
        loops = (self.loops.get(name), self.beside.get(name))
        self._turns[name] = [self.turns.add(loop, after_s) for loop in loops if loop is not None]

    def _check_idle(self, name: str) -> None:
        loop = self.loops.get(name)
        if loop is not None and loop.snapshot().phase in IN_FLIGHT:
            raise InProgressError(
                f"a change of pipeline {name!r} is rolling out, and nothing would roll it back if it failed",
                hint="Try again once it has settled; its status shows the phase.",
            )

    def _end(self, name: str) -> None:
        """End the pipeline's loops and wait for them. InProgressError if a tick takes too long."""
        until_s, turns = self.clock.monotonic_s() + END_S, self._turns.pop(name, [])
        ended = [self.turns.end(turn, max(until_s - self.clock.monotonic_s(), 0.0)) for turn in turns]
        if not all(ended):
            self._start(name)
            raise InProgressError(f"a tick of pipeline {name!r} is still under way after {END_S:g} s")

    def _check_free(self, name: str) -> None:
        if name in self.files:
            raise ConflictError(
                f"pipeline {name!r} comes from a file, which this service only reads",
                hint=f"Change {self.edits.path(name)}: the change takes effect without a restart. "
                "Only pipelines created over the API are changed over the API.",
            )
