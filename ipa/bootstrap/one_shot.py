"""A service for one command: the use cases over a cluster or a manifest, where no service runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from ipa.adapters.forecasting import forecast_setup
from ipa.adapters.store import Access, Store, open_from
from ipa.bootstrap.replaying import Replayer
from ipa.bootstrap.targets import Target, check_honoured, cluster_target, target_named
from ipa.control.audit.replay import ReplayResult
from ipa.control.canonical import digest_of
from ipa.control.election import ALONE
from ipa.control.loop.scheduler import SystemClock
from ipa.control.ports import Attribution, PipelineControl
from ipa.files import load_pipelines, load_profiles
from ipa.files.pipelines import find_pipeline
from ipa.files.reading import read_text
from ipa.model.decision import Decision
from ipa.model.errors import InputError, NotFoundError, UsageError, service_only
from ipa.model.measured import with_profiles
from ipa.model.pipeline import Pipeline
from ipa.model.plan import Plan
from ipa.model.probe import RequestAddress
from ipa.model.profile import StageProfile
from ipa.model.serving import unbatched_notes
from ipa.optimize.explanation import Explanation
from ipa.optimize.frontier import FrontierPoint, frontier
from ipa.optimize.solve import solve
from ipa.policies.planning import PlanQuestion, explain_plan
from ipa.service.one_shot import ManifestLoop, OneShotLoop
from ipa.service.service import Loop, Service
from ipa.settings import Settings

T = TypeVar("T")
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class OneShot:
    """A service without loops, until `close`.

    `interval_s` is the time between two reads of a watch, None if nothing changes by itself; `refusal` says
    why nothing may be written from here.
    """

    service: Service
    interval_s: float | None
    refusal: UsageError | None = None
    resources: ExitStack = field(default_factory=ExitStack)

    def close(self) -> None:
        """Close what is open."""
        self.resources.close()


def on_target(settings: Settings, at: str, namespace: str | None, say: Say) -> OneShot:
    """The service over the target `at` (NAME or NAME:WHERE) and the settings' store.

    `namespace` replaces those of the pipelines' files. The store is opened only if a command needs it.
    ConfigurationError: the target cannot be used.
    """
    resources = ExitStack()
    name, _, where = at.partition(":")
    target = target_named(name)
    connection = target.connect(settings, where)
    resources.callback(connection.close)
    store = StoreOnDemand(settings)
    resources.callback(store.close)
    here = SystemClock()
    pipelines = FilePipelines(settings, target, namespace, lambda: _placed_names(settings, target))

    def loop(name: str) -> Loop:
        pipeline = pipelines[name]
        # One that is not placed there is refused by the workload, which says what its file lacks.
        if target.placed(pipeline):
            check_honoured(target, [pipeline])
        return OneShotLoop(pipeline, connection, store, here, settings, say)

    refusal = None
    if settings.actuation == "gitops":
        refusal = UsageError(
            "IPA_ACTUATION is gitops: a GitOps tool writes the cluster, not this command",
            hint="Use --at with the manifest's FILE.yaml and commit it, or --at with the service's URL.",
        )
    service = _service(settings, target, at, pipelines, loop, store, say)
    return OneShot(service, interval_s=2.0, refusal=refusal, resources=resources)


def on_manifest(settings: Settings, path: str, namespace: str | None, say: Say) -> OneShot:
    """The service over the manifests in a file, which keeps no history."""
    target, here = cluster_target(), SystemClock()

    def is_there(name: str) -> bool:
        try:
            target.manifest(pipelines[name], read_text(Path(path)), path)
        except NotFoundError:
            return False
        return True

    pipelines = FilePipelines(
        settings,
        target,
        namespace,
        lambda: [name for name in _placed_names(settings, target) if is_there(name)],
    )

    def loop(name: str) -> Loop:
        return ManifestLoop(pipelines[name], path, target, here)

    history: Any = Refused(
        UsageError(
            f"{path} is a file, which keeps no history", hint=f"Use git: `git log -p {path}`, `git revert`."
        )
    )
    service = _service(settings, target, path, pipelines, loop, history, say)
    return OneShot(service, interval_s=None)


def refusals(settings: Settings, at: str, pipelines: Iterable[Pipeline]) -> list[str]:
    """The reasons of the target `at` to refuse pipelines that are placed there, with remedies."""
    kind, _, where = at.partition(":")
    target = target_named(kind)
    with closing(target.connect(settings, where)) as connection:
        placed = [pipeline for pipeline in pipelines if target.placed(pipeline)]
        found = {pipeline.name: connection.why_not(pipeline) for pipeline in placed}
    return [f"pipeline {name}: {why}" for name, why in found.items() if why]


def release(settings: Settings, at: str, name: str, namespace: str | None) -> list[str]:
    """Give the pipeline up on the target `at`, for another install to claim; the names of what was ours."""
    kind, _, where = at.partition(":")
    target = target_named(kind)
    with closing(target.connect(settings, where)) as connection:
        return connection.release(FilePipelines(settings, target, namespace, list)[name])


def _service(
    settings: Settings,
    target: Target,
    at: str,
    pipelines: Mapping[str, Pipeline],
    loop: Callable[[str], Loop],
    store: Any,
    say: Say,
) -> Service:
    """The service of those pipelines; `store` is its record."""
    error = service_only("this", at)
    elsewhere: Any = Refused(error)
    loops = ByName(lambda: pipelines, loop)
    profiles = ByName(lambda: pipelines, lambda name: usable_profiles(settings, name))
    return Service(
        pipelines=pipelines,
        registry=OneShotRegistry(settings, pipelines, profiles, loops, target, error),
        log=store,
        controls=NoControls(),
        # The store is opened once it is asked.
        record_of=lambda name: str(store.record_of(name)),
        record_owner=lambda _: None,
        verify=lambda pipeline, anchor: store.verify(pipeline, anchor=anchor),
        plans=elsewhere,
        answers=elsewhere,
        planner=DirectPlanner(settings.profiles_dir, say),
        replayer=StoredProfilesReplayer(settings, target, store),
        standing=lambda: ALONE,
        health=lambda: (),
        clock=SystemClock(),
        settings=settings,
    )


class Refused:
    """Stands for ports that are not there: each use raises the error."""

    def __init__(self, error: UsageError) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Any:
        raise self._error


class NoControls:
    """The overrides where no service keeps any."""

    def control(self, pipeline: str, *, may_lag: bool = False) -> PipelineControl:
        """None are set."""
        return PipelineControl()

    def set_control(self, pipeline: str, control: PipelineControl, said: Attribution) -> None:
        """Only a service sets them: it has routes for that, a command does not."""
        raise service_only("a pause or a mode", "this command")


class ByName(Mapping[str, T]):
    """Values by the name of a pipeline, each made when it is first asked for.

    `make` raises NotFoundError for a name that there is none of; other errors reach the caller.
    """

    def __init__(self, names: Callable[[], Iterable[str]], make: Callable[[str], T]) -> None:
        self._names, self._make = names, make
        self._made: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        if name not in self._made:
            try:
                self._made[name] = self._make(name)
            except NotFoundError as error:
                raise KeyError(name) from error
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(list(self._names()))


class FilePipelines(ByName[Pipeline]):
    """The pipelines of the files, as they run on the target; also by the path of a file.

    `namespace` replaces that of the file; the names are those that `names` lists.
    """

    def __init__(
        self, settings: Settings, target: Target, namespace: str | None, names: Callable[[], Iterable[str]]
    ) -> None:
        super().__init__(names, self._found)
        self._settings, self._target, self._namespace = settings, target, namespace

    def _found(self, name: str) -> Pipeline:
        found = find_pipeline(name, self._settings.pipelines_dir)
        profiles = usable_profiles(self._settings, found.name)
        found = with_profiles(self._target.shape(found, profiles), profiles)
        if self._namespace is not None:
            found = self._target.in_namespace(found, self._namespace)
        # A pipeline that was asked for by its path is then asked for by its name.
        self._made[found.name] = found
        return found


def _placed_names(settings: Settings, target: Target) -> list[str]:
    """The pipelines whose files say how they run on the target; InputError if a file is wrong."""
    found = load_pipelines(settings.pipelines_dir)
    return sorted(name for name, pipeline in found.items() if target.placed(pipeline))


def usable_profiles(settings: Settings, name: str) -> Mapping[str, StageProfile]:
    """The profiles of the files; none if they cannot be used: then only accuracies are not known."""
    try:
        return load_profiles(settings.profiles_dir, name)
    except (InputError, NotFoundError):
        return {}


class OneShotRegistry(Refused):
    """The `PipelineRegistry` of a command: pipelines of files, which it only reads; changes are refused."""

    def __init__(
        self,
        settings: Settings,
        pipelines: Mapping[str, Pipeline],
        profiles: Mapping[str, Mapping[str, StageProfile]],
        loops: Mapping[str, Loop],
        target: Target,
        error: UsageError,
    ) -> None:
        super().__init__(error)
        self._settings, self._target = settings, target
        self.pipelines, self.profiles, self.loops = pipelines, profiles, loops
        self.beside: Mapping[str, Loop] = {}

    @property
    def files(self) -> frozenset[str]:
        """Every pipeline."""
        return frozenset(self.pipelines)

    def unfit(self, name: str) -> str:
        """Empty: every pipeline has a loop."""
        return ""

    def address(self, pipeline: Pipeline) -> RequestAddress:
        """The address for the pipeline's requests."""
        return self._target.address(pipeline, self._settings)

    def edit(self, name: str) -> None:
        """None: a command reads the files once."""

    def version(self, pipeline: Pipeline) -> str:
        """The digest of the pipeline."""
        return digest_of(pipeline)


class DirectPlanner:
    """The `Planner` in this process, for a command that waits for the answer."""

    def __init__(self, profiles_dir: Path, say: Say) -> None:
        self._profiles_dir, self._say = profiles_dir, say

    async def plan(self, question: PlanQuestion, solver: str, deadline_s: float) -> Plan:
        """The best plan; errors of the profiles' files if none could be used."""
        pipeline = question.pipeline
        for note in unbatched_notes(pipeline):
            self._say(f"note: {note}")
        known = question.profiles or load_profiles(self._profiles_dir, pipeline.name)
        return solve(replace(question, profiles=known).problem(), solver, deadline_s)

    async def explain(self, question: PlanQuestion, plan: Plan, deadline_s: float) -> Explanation:
        """Explain a plan, as `ipa.policies.planning` does."""
        return explain_plan(question, plan, deadline_s)

    async def frontier(self, question: PlanQuestion, deadline_s: float) -> tuple[FrontierPoint, ...]:
        """Compute a frontier, as `ipa.optimize.frontier` does."""
        return frontier(question.problem(), deadline_s)


# The methods of the store that need it opened to write; all others read.
WRITES = frozenset({"record", "control", "set_control"})


class StoreOnDemand:
    """The methods of the settings' store and its records; the first use opens it to read or to write."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._resources = ExitStack()

    @cached_property
    def _read(self) -> Store:
        # A service beside it is not held up.
        return self._opened(Access.READ)

    @cached_property
    def _write(self) -> Store:
        return self._opened(Access.WRITE)

    def _opened(self, access: Access) -> Store:
        store = open_from(self._settings, access)
        self._resources.callback(store.close)
        return store

    def record_of(self, name: str) -> str:
        """The record that the pipeline writes."""
        return self._read.records.of(name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._write if name in WRITES else self._read, name)

    def close(self) -> None:
        """Close what was opened."""
        self._resources.close()


class StoredProfilesReplayer:
    """Takes decisions again with the pipelines of the files and the profiles of the store.

    A forecaster that learns from a trace would learn for minutes: then the recorded forecasts are used.
    """

    def __init__(self, settings: Settings, target: Target, store: StoreOnDemand) -> None:
        self._settings, self._store = settings, store
        # As the files say, in their own namespaces: another one would be another pipeline than the recorded.
        self._pipelines = FilePipelines(settings, target, None, list)

    def __call__(
        self,
        decision: Decision,
        pipeline: Pipeline,
        profiles: Mapping[str, StageProfile],
        policy: str | None = None,
    ) -> ReplayResult:
        """The result, by the policy of that name or the one that took the decision."""
        name = pipeline.name
        stored = self._store.profiles(name)
        learns = bool(self._settings.forecast_trace)
        forecaster = None if learns else forecast_setup(self._settings, {name: stored}).of
        return Replayer(self._store, forecaster)(decision, self._pipelines[name], stored, policy)
