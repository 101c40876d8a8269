"""The pipelines of the service: reading all, and changing those that were created over the API."""

from __future__ import annotations

import dataclasses
import logging
import threading
from dataclasses import dataclass
from enum import StrEnum

from ipa.control.ports import Attribution, ControlAction
from ipa.files import pipeline_to_mapping
from ipa.files.pipelines import changes_of
from ipa.model.access import EVERYWHERE, Operation
from ipa.model.errors import ConflictError, ForbiddenError, InputError, Problem
from ipa.model.pipeline import Bounds, CombineRule, Edge, Objective, Pin, Pipeline, StageBounds, StageKind
from ipa.model.probe import NO_ADDRESS, RequestAddress
from ipa.model.profile import StageProfile
from ipa.service.service import Precondition, Service
from ipa.service.visibility import Caller

LOG = logging.getLogger(__name__)
# Read, compared with the precondition and replaced as one; two requests at once must not undo each other.
_one_at_a_time = threading.Lock()


@dataclass(frozen=True, slots=True)
class StageView:
    """A stage as its owner wrote it: its kind, its variants in order, and its parents."""

    stage: str
    kind: StageKind
    variants: tuple[str, ...]
    after: tuple[Edge, ...]
    combine: CombineRule
    bounds: StageBounds
    pin: Pin
    batch_timeout_s: float


class Origin(StrEnum):
    """The origin of a pipeline: a file, which the service only reads, or the API."""

    FILE = "file"
    API = "api"


@dataclass(frozen=True, slots=True)
class PipelineView:
    """A pipeline as its owner wrote it. `not_controlled`: why no loop runs for it; empty if one does.

    A pipeline that is not `runnable` is only planned; `not_runnable_because` tells why. `address` is where
    clients send its requests.
    """

    pipeline: str
    description: str
    sla_s: float
    sla_percentile: float
    bounds: Bounds
    objectives: dict[str, Objective]
    default_objective: str
    stages: tuple[StageView, ...]
    endpoint: str | None
    origin: Origin = Origin.FILE
    not_controlled: str = ""
    runnable: bool = True
    not_runnable_because: str = ""
    address: RequestAddress = NO_ADDRESS


@dataclass(frozen=True, slots=True)
class PipelineList:
    """Every pipeline, by name."""

    pipelines: tuple[PipelineView, ...]


@dataclass(frozen=True, slots=True)
class Removed:
    """A pipeline that is no longer controlled; `left` names the parts of it that keep running."""

    pipeline: str
    left: str


@dataclass(frozen=True, slots=True)
class PipelineChange:
    """A change of a pipeline: its author and reason, and the version of the pipeline it was made for."""

    caller: Caller
    expected: Precondition
    by: str = ""
    reason: str = ""

    def attribution(self, deed: ControlAction) -> Attribution:
        """The attribution of the change for the record, with the action `deed`."""
        return self.caller.attribution(deed, self.by, self.reason)

    def check(self, pipeline: Pipeline) -> None:
        """PreconditionError if the pipeline has another version."""
        registry = self.caller.service.registry
        # The present pipeline, which may have changed since the request arrived.
        now = registry.pipelines.get(pipeline.name, pipeline)
        self.expected.check(registry.version(now), f"pipeline {pipeline.name}")


def create(caller: Caller, pipeline: Pipeline, *, by: str = "", reason: str = "") -> PipelineView:
    """Add a pipeline, advisory at first; the service controls it at once if it runs here.

    Errors: ForbiddenError, ConflictError (the name is taken, or there is no room for another pipeline).
    """
    caller.must(Operation.DEFINE, pipeline.namespace)
    _check_place(caller, pipeline)
    attribution = caller.attribution(ControlAction.GIVE, by, reason)
    caller.service.registry.give(pipeline, attribution)
    LOG.info("pipeline %s was given by %s", pipeline.name, attribution.by or "someone")
    return view(caller.service, pipeline)


def replace(change: PipelineChange, old: Pipeline, new: Pipeline) -> PipelineView:
    """Replace a pipeline that was created over the API.

    Its loop continues with the new one at once, and the record has the changes. Errors: PreconditionError,
    ForbiddenError, InputError (another name), ConflictError, InProgressError.
    """
    if new.name != old.name:
        problem = Problem(f"the name is {new.name!r}, and {old.name!r} in the address", pointer="/name")
        raise InputError("a pipeline keeps its name; give another one instead", problems=[problem])
    if new.namespace == old.namespace:
        # It may name another workload than the one that it replaces, with images of its own.
        change.caller.must(Operation.REPLACE, new.namespace, new)
    else:
        _check_place(change.caller, new)
        change.caller.must(Operation.DEFINE, new.namespace)
    service, attribution = change.caller.service, change.attribution(ControlAction.REPLACE)
    with _one_at_a_time:
        # Checked again under the lock.
        change.check(old)
        now = service.registry.pipelines.get(old.name, old)
        changes = "; ".join(changes_of(pipeline_to_mapping(now), pipeline_to_mapping(new)))
        why = ": ".join(filter(None, (attribution.why, changes)))
        service.registry.give(new, dataclasses.replace(attribution, why=why))
        LOG.info("pipeline %s was replaced by %s: %s", new.name, attribution.by or "someone", why)
        return view(service, new)


def remove(change: PipelineChange, pipeline: Pipeline) -> Removed:
    """Stop controlling a pipeline that was created over the API, and delete it; its workload stays."""
    with _one_at_a_time:
        change.check(pipeline)
        left = change.caller.service.registry.remove(pipeline.name, change.attribution(ControlAction.REMOVE))
    LOG.info("pipeline %s was removed: %s", pipeline.name, left)
    return Removed(pipeline.name, left)


def set_profile(change: PipelineChange, pipeline: Pipeline, stage: str, profile: StageProfile) -> None:
    """Store the newest profile of a stage; plans use it from now on."""
    pipeline.stage(stage)
    with _one_at_a_time:
        change.check(pipeline)
        named = (("pipeline", profile.pipeline, pipeline.name), ("stage", profile.stage, stage))
        problems = [
            Problem(f"the {key} is {given!r}, and {wanted!r} in the address", pointer=f"/{key}")
            for key, given, wanted in named
            if given != wanted
        ]
        if problems:
            raise InputError("the profile belongs to another stage", problems=problems)
        change.caller.service.registry.give_profile(profile, change.attribution(ControlAction.PROFILE))
    LOG.info("pipeline %s: a profile of %s was given", pipeline.name, stage)


def view(service: Service, pipeline: Pipeline) -> PipelineView:
    """The view of the pipeline."""
    return pipeline_view(pipeline, *shown_beside(service, pipeline))


def shown_beside(service: Service, pipeline: Pipeline) -> tuple[str | None, Origin, str, RequestAddress]:
    """The service's own facts about a pipeline: endpoint, origin, why it is not controlled, address."""
    name, registry = pipeline.name, service.registry
    origin = Origin.FILE if name in registry.files else Origin.API
    return service.endpoints.get(name), origin, registry.unfit(name), registry.address(pipeline)


def _check_place(caller: Caller, pipeline: Pipeline) -> None:
    """ConflictError if its namespace has no room for another pipeline, ForbiddenError for its name.

    The refusal of a name has one form for every reason, so that it does not reveal names in namespaces that
    are hidden from the caller: names are unique in the service, or (`IPA_API_NAMES=prefixed`) begin with
    their namespace.
    """
    service, name, namespace = caller.service, pipeline.name, pipeline.namespace
    registry = service.registry
    others = [each for each in list(registry.pipelines.values()) if each.name not in registry.files]
    most = service.settings.api_pipelines
    if sum(each.namespace == namespace for each in others) >= most:
        raise ConflictError(
            f"the namespace {namespace} has {most} pipelines created over the API, the most allowed",
            hint="Remove one, or raise IPA_API_PIPELINES.",
        )
    taken = registry.pipelines.get(name)
    is_hidden = taken is not None and not caller.identity.may(Operation.READ, taken.namespace)
    is_free = caller.identity.may(Operation.DEFINE, EVERYWHERE)
    is_reserved = service.settings.api_names == "prefixed" and not is_free
    if is_hidden or (is_reserved and name != namespace and not name.startswith(f"{namespace}-")):
        raise ForbiddenError(
            f"a pipeline of the namespace {namespace} may not be called {name!r}",
            hint=f"Choose another name; those that begin with {namespace}- are for that namespace.",
        )


def pipeline_view(
    pipeline: Pipeline,
    endpoint: str | None,
    origin: Origin = Origin.FILE,
    not_controlled: str = "",
    address: RequestAddress = NO_ADDRESS,
) -> PipelineView:
    """The view of the pipeline, without the settings of its containers."""
    return PipelineView(
        pipeline=pipeline.name,
        description=pipeline.description,
        sla_s=pipeline.sla.latency_s,
        sla_percentile=pipeline.sla.percentile,
        bounds=pipeline.bounds,
        objectives=dict(pipeline.objectives),
        default_objective=pipeline.default_objective,
        stages=tuple(
            StageView(
                stage=stage.name,
                kind=stage.kind,
                variants=tuple(variant.name for variant in stage.variants),
                after=stage.after,
                combine=stage.combine,
                bounds=stage.bounds,
                pin=stage.pin,
                batch_timeout_s=stage.batch_timeout_s,
            )
            for stage in pipeline.stages
        ),
        endpoint=endpoint,
        origin=origin,
        not_controlled=not_controlled,
        runnable=pipeline.runnable,
        not_runnable_because=pipeline.not_runnable_because,
        address=address,
    )
