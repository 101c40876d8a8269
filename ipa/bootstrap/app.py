"""Construction of the service: the loops, the store and the world they act on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

from prometheus_client import CollectorRegistry

from ipa.adapters.forecasting import forecast_setup
from ipa.adapters.kube.lease import LeaseLeadership
from ipa.adapters.metrics.publish import Catalogue, Publisher
from ipa.adapters.metrics.tick_spans import TickSpans
from ipa.adapters.store.database import Access
from ipa.adapters.store.store import Changes, Housekeeping, Store, open_from
from ipa.bootstrap.file_edits import FileEdits
from ipa.bootstrap.identity import Identities, make_authenticators
from ipa.bootstrap.leader_election import election_faults, make_leadership
from ipa.bootstrap.pipeline_registry import PipelineFactory, Roster, choose_policy, make_inputs
from ipa.bootstrap.targets import (
    ServeOptions,
    actuation_faults,
    check_carried,
    find_target,
    start_configs,
)
from ipa.control.audit.reason_log import ReasonLog
from ipa.control.audit.record import RecordFeed
from ipa.control.loop.control_loop import ControlLoop, Hook, LoopPorts
from ipa.control.loop.scheduler import Scheduler, StopSignal
from ipa.control.ports import AlwaysLeading, Attribution, Clock, ControlAction
from ipa.files import load_profiles
from ipa.files.traces import read_trace
from ipa.metering import table
from ipa.metering.make import Figures, new_registry
from ipa.metering.traces import tracing
from ipa.model.decision import Mode
from ipa.model.errors import ConfigurationError, IpaError, NotFoundError, Problem
from ipa.model.measured import with_profiles
from ipa.model.pipeline import Pipeline
from ipa.model.profile import StageProfile
from ipa.settings import Settings
from ipa.targets.base import Site

log = logging.getLogger("ipa")

# A change by another writer brings a tick forward; at most one in this part of an interval.
WAKE_GAP_RATIO = 0.25


@dataclass(frozen=True, slots=True)
class App:
    """The running service: the loops, the store and the world they act on. `close` ends all of them."""

    settings: Settings
    pipelines: Mapping[str, Pipeline]
    loops: Mapping[str, ControlLoop]
    store: Store
    registry: CollectorRegistry
    clock: Clock
    stop: StopSignal
    resources: ExitStack
    roster: Roster
    # The record as it grows.
    feed: RecordFeed
    # None if the service runs alone.
    leadership: LeaseLeadership | None = None
    # They authenticate the caller; empty if callers need no identity.
    authenticators: tuple[Identities, ...] = ()

    def hand_over(self, settled: Callable[[], bool]) -> None:
        """Stop writing, and let another replica lead at once if no write is under way."""
        if self.leadership is not None:
            self.leadership.close(settled)

    def close(self) -> None:
        """Stop the loops, then everything they needed, in reverse order of starting."""
        self.stop.set()
        self.resources.close()


def build(settings: Settings, options: ServeOptions) -> App:
    """The service, its pipelines running and its loops not yet started.

    Call it from a thread that lives as long as the service: processes that it starts end with that thread.
    Errors: InputError (files), NotFoundError (a pipeline by name), UsageError (target, policy),
    InfeasibleError (the start rate), ConfigurationError, UnavailableError.
    """
    if faults := (*_trace_faults(settings), *actuation_faults(settings), *election_faults(settings)):
        problems = [Problem(fault) for fault in faults]
        raise ConfigurationError("the service cannot start with these settings", problems=problems)
    stop = StopSignal()
    target = find_target(settings)
    clock = target.clock(stop, options.simulated)
    edits = FileEdits(settings.pipelines_dir, settings.profiles_dir, clock.now)
    of_files = edits.load()
    registry = new_registry()
    with ExitStack() as resources:
        store = open_from(settings, Access.SERVE)
        resources.callback(store.close)
        authenticators = make_authenticators(settings, store, clock, resources)
        pipelines = _chosen(of_files, options.names, store.given.all())
        check_carried(target, pipelines.values(), options.policy)
        for pipeline in pipelines.values():
            store.records.resume(pipeline.name, pipeline.namespace)
        profiles = {name: _profiles(settings, store, pipeline) for name, pipeline in pipelines.items()}
        pipelines = {
            name: with_profiles(target.shape(it, profiles[name]), profiles[name])
            for name, it in pipelines.items()
        }
        if options.mode is not None:
            _set_mode(store, pipelines, options.mode)
        # Before anything is started, so that a wrong name fails at once.
        inputs = {name: make_inputs(settings, options, it, profiles[name]) for name, it in pipelines.items()}
        chosen = {name: choose_policy(options.policy, it, settings.tick_s) for name, it in inputs.items()}
        shadows = {
            name: choose_policy(options.shadow_policy, it, settings.tick_s)
            for name, it in inputs.items()
            if options.shadow_policy
        }
        site = Site(
            settings=settings,
            pipelines=pipelines,
            profiles=profiles,
            folder=options.folder,
            clock=clock,
            start=lambda pipeline: start_configs(settings, options, pipeline, profiles[pipeline.name]),
            decision=store.decision,
            registry=registry,
            resources=resources,
            load=options.simulated,
        )
        opened = target.open(site)
        leadership = make_leadership(settings, lambda: _wake(loops, *loops), resources)
        leads = leadership or AlwaysLeading()
        world = LoopPorts(
            clock,
            opened.metrics,
            opened.workload,
            store,
            store,
            leads,
            opened.events,
        )
        catalogue = Catalogue(
            registry, tuple(pipelines.values()), tick_s=settings.tick_s, install=settings.install
        )
        if leadership is not None:
            catalogue.leader.set_function(leadership.leading)
        spans = [TickSpans(provider)] if (provider := tracing("ipa")) is not None else []
        hooks: tuple[Hook, ...] = (Publisher(catalogue), Changes(store.note), ReasonLog(), *spans)
        feed = RecordFeed(store, clock.monotonic_s)
        housekeeping = Housekeeping(store, clock.now, leads.leading)
        resources.callback(housekeeping.close)
        housekeeping.start()
        registry.register(record_figures(store))
        maker = PipelineFactory(
            settings,
            target,
            options,
            forecast_setup(settings, profiles, target.rate_window_s),
            world,
            leadership,
            hooks,
            stop,
            store,
            catalogue,
            opened.endpoints,
        )
        loops = {name: maker.make_loop(each) for name, each in chosen.items()}
        others = {name: maker.beside(each) for name, each in shadows.items()}
        watching = None
        if opened.watch is not None:
            gap_s = WAKE_GAP_RATIO * settings.tick_s
            watching = opened.watch(list(pipelines.values()), partial(_wake, loops), gap_s, stop)
        roster = Roster(
            pipelines,
            profiles,
            loops,
            others,
            replace(maker, watchers=watching, adopting=opened.adopting),
            store,
            clock,
            stop,
            Scheduler(lambda waker: target.clock(waker, options.simulated), stop),
            edits,
            # A simulated service is never restarted, so its created pipelines need not be found again.
            only=frozenset(() if options.simulated else options.names),
            follow_s=settings.tick_s if leadership is not None else None,
            look_s=settings.peek_s,
        )
        roster.sync()
        return App(
            settings=settings,
            pipelines=pipelines,
            loops=loops,
            store=store,
            registry=registry,
            clock=clock,
            stop=stop,
            resources=resources.pop_all(),
            leadership=leadership,
            roster=roster,
            feed=feed,
            authenticators=authenticators,
        )


def _wake(loops: Mapping[str, ControlLoop], *names: str) -> None:
    """Make the loops that still exist tick now."""
    for loop in [loops.get(name) for name in names]:
        if loop is not None:
            loop.wake()


def _set_mode(store: Store, names: Iterable[str], mode: Mode) -> None:
    attribution = Attribution(ControlAction.MODE, by="ipa serve", why="--mode")
    for name in names:
        control = store.control(name)
        # An unchanged mode is not recorded again.
        if control.mode is not mode:
            store.set_control(name, replace(control, mode=mode), attribution)


def _chosen(
    of_files: Mapping[str, Pipeline], names: Sequence[str], given: Mapping[str, object]
) -> dict[str, Pipeline]:
    """The requested pipelines of files; pipelines `given` over the API may be named too."""
    unknown = [name for name in names if name not in of_files and name not in given]
    if unknown:
        known = ", ".join(sorted({*of_files, *given})) or "none"
        raise NotFoundError(f"there is no pipeline {', '.join(unknown)}", hint=f"There are: {known}")
    return {name: of_files[name] for name in names or sorted(of_files) if name in of_files}


def _profiles(settings: Settings, store: Store, pipeline: Pipeline) -> Mapping[str, StageProfile]:
    """The profiles of the files, stored as newest; without files, the store's profiles."""
    for profile in load_profiles(settings.profiles_dir, pipeline.name).values():
        store.save_profile(profile)
    return store.profiles(pipeline.name)


def record_figures(store: Store) -> Figures:
    """Return the metrics of the record."""
    return Figures(
        (table.RECORD_FAILURES, lambda: store.failures),
        (table.STORE_DEGRADED, lambda: bool(store.degraded())),
        (table.RECORD_BYTES, lambda: store.pruned.record_bytes),
        (table.RECORD_BOUNDED, lambda: store.pruned.is_bounded),
    )


def _trace_faults(settings: Settings) -> Iterator[str]:
    """Check that the training trace can be read."""
    if not settings.forecast_trace:
        return
    try:
        rates = read_trace(settings.forecast_trace)
    except IpaError as error:
        yield f"IPA_FORECAST_TRACE: {error}"
        return
    if not any(rates):
        yield f"IPA_FORECAST_TRACE: {settings.forecast_trace} has no requests"
