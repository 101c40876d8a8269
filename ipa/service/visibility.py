"""The service restricted to the pipelines that a caller may see, and the caller's rights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ipa.control.ports import Attribution, ControlAction, DecisionLog
from ipa.model.access import EVERYWHERE, Identity, Operation, looks_vouched
from ipa.model.decision import Decision
from ipa.model.errors import ForbiddenError, InputError, NotFoundError, Problem
from ipa.model.pipeline import Pipeline
from ipa.service.service import Service

# The operations that a role may allow on some pipelines by name.
OF_ONE = (Operation.CONTROL, Operation.APPLY, Operation.REPLACE, Operation.REMOVE)
# Above this many pipelines the cluster is asked per namespace only, not per name.
MOST_NAMED = 50


@dataclass(frozen=True, slots=True)
class Caller:
    """An identity, and the service reduced to the pipelines that it may see."""

    identity: Identity
    service: Service

    def must(self, operation: Operation, namespace: str, pipeline: Pipeline | None = None) -> None:
        """ForbiddenError if the caller lacks the right to the operation there, or on that pipeline."""
        if not self.identity.may(operation, namespace, pipeline):
            where = "in every namespace" if namespace == EVERYWHERE else f"in the namespace {namespace}"
            raise ForbiddenError(
                f"{self.identity.name} may not {operation} {where}",
                hint="docs/reference/access.md says which role may what.",
            )

    @property
    def author(self) -> str | None:
        """The author of the caller's changes in the record; None without authentication."""
        return self.identity.name or None

    def name(self, claimed: str) -> str:
        """The name to record: the identity's, or the claimed one if authentication is off.

        InputError for a claimed name with the form of an authenticated identity.
        """
        if not self.identity.name and looks_vouched(claimed):
            message = f"{claimed!r} has the form of an identity, which takes a token; give a plain name"
            raise InputError("a name that cannot be recorded", problems=[Problem(message, pointer="/by")])
        return self.identity.name or claimed

    def attribution(self, deed: ControlAction, by: str, reason: str) -> Attribution:
        """The attribution of the caller's action for the record; errors as of `name`."""
        return Attribution(deed, self.name(by), reason)


def visible_to(identity: Identity, service: Service) -> Service:
    """The service without the pipelines that the identity may not read, which count as missing.

    UnavailableError if the rights of the identity cannot be looked up.
    """
    if identity.may(Operation.READ, EVERYWHERE):
        return service
    there = list(service.pipelines.values())
    open_to = {each for each in {it.namespace for it in there} if identity.may(Operation.READ, each)}
    pipelines: dict[str, Pipeline] = {}
    current: dict[str, str] = {}
    for pipeline in there:
        owner = service.record_owner(pipeline.name)
        # The name may just have moved to another namespace.
        if pipeline.namespace in open_to and (owner is None or owner.namespace == pipeline.namespace):
            pipelines[pipeline.name] = pipeline
            current[pipeline.name] = owner.record if owner else service.record_of(pipeline.name)
    hidden = frozenset(it.name for it in there) - frozenset(pipelines)

    def record_of(name: str) -> str:
        # Checked at each call: another pipeline may have got one of the names.
        pipeline, at, policy = name.partition("@")
        return f"{current.get(pipeline, pipeline)}{at}{policy}"

    return replace(
        service,
        pipelines=pipelines,
        record_of=record_of,
        log=_VisibleLog(service.log, service.record_of, pipelines, record_of),
        health=lambda: tuple(each for each in service.health() if each.name not in hidden),
    )


@dataclass(frozen=True, slots=True)
class _VisibleLog:
    """The decisions of the visible pipelines; decisions of others count as missing.

    A decision that an earlier pipeline recorded under a name is not visible to the name's present pipeline.
    """

    log: DecisionLog
    live: Callable[[str], str]
    pipelines: Mapping[str, Pipeline]
    record_of: Callable[[str], str]

    def record(self, decision: Decision) -> None:
        self.log.record(decision)

    def decisions(
        self, pipeline: str, *, limit: int = 50, before_tick: int | None = None, applied_only: bool = False
    ) -> Sequence[Decision]:
        if not self._sees(pipeline):
            return ()
        record = self.record_of(pipeline)
        return self.log.decisions(record, limit=limit, before_tick=before_tick, applied_only=applied_only)

    def decision(self, decision_id: str) -> Decision:
        try:
            decision = self.log.decision(decision_id)
        except NotFoundError:
            decision = None
        if (
            decision is None
            or not self._sees(decision.pipeline)
            or self.live(decision.pipeline) != self.record_of(decision.pipeline)
        ):
            raise NotFoundError(
                f"there is no decision {decision_id!r}", hint="`ipa history PIPELINE` lists them."
            )
        return decision

    def _sees(self, record: str) -> bool:
        # Decisions of a policy beside a pipeline are recorded as PIPELINE@POLICY.
        return record.partition("@")[0] in self.pipelines


@dataclass(frozen=True, slots=True)
class AllowedView:
    """The operations that the caller may do with a pipeline."""

    pipeline: str
    namespace: str
    operations: tuple[Operation, ...]


@dataclass(frozen=True, slots=True)
class MeView:
    """The caller's name in the record, empty without authentication, and its rights.

    `everywhere` are the operations that are allowed in every namespace, future ones too. Pipelines that the
    caller may not read are omitted.
    """

    name: str
    everywhere: tuple[Operation, ...]
    pipelines: tuple[AllowedView, ...]


def rights_of(caller: Caller) -> MeView:
    """The operations that the caller may do with each pipeline that it may see, and everywhere."""
    identity, pipelines = caller.identity, caller.service.pipelines
    namespaces = {pipeline.namespace for pipeline in pipelines.values()}
    # Each right is asked once for all pipelines in a namespace.
    allowed = {
        namespace: tuple(
            each
            for each in Operation
            # OPERATE is a right in every namespace or in none.
            if (each is not Operation.OPERATE or namespace == EVERYWHERE) and identity.may(each, namespace)
        )
        for namespace in {*namespaces, EVERYWHERE}
    }
    by_name = OF_ONE if len(pipelines) <= MOST_NAMED else ()

    def of(pipeline: Pipeline) -> AllowedView:
        there = allowed[pipeline.namespace]
        # A right in the whole namespace need not be asked for one pipeline.
        more = {it for it in by_name if it not in there and identity.may(it, pipeline.namespace, pipeline)}
        operations = tuple(each for each in Operation if each in there or each in more)
        return AllowedView(pipeline.name, pipeline.namespace, operations)

    return MeView(
        name=identity.name,
        everywhere=allowed[EVERYWHERE],
        pipelines=tuple(of(pipelines[name]) for name in sorted(pipelines)),
    )
