"""What a caller may do, and where."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ipa.model.access import EVERYWHERE, Identity, Operation
from ipa.model.pipeline import Pipeline
from ipa.service.visibility import Caller

# What a role may allow with some pipelines by their names.
OF_ONE = (
    Operation.CONTROL,
    Operation.APPLY,
    Operation.REPLACE,
    Operation.AMEND,
    Operation.REMOVE,
)
# A cluster is asked of each name: of more pipelines than these it is told what holds for their namespaces.
MOST_NAMED = 50


@dataclass(frozen=True, slots=True)
class AllowedView:
    """What may be done with a pipeline."""

    pipeline: str
    namespace: str
    operations: tuple[Operation, ...]


@dataclass(frozen=True, slots=True)
class MeView:
    """Who asks, as they are recorded; `name` is empty where nobody has to say who they are.

    `everywhere` is allowed in every namespace, also in those to come. What may not be read is not there.
    """

    name: str
    everywhere: tuple[Operation, ...]
    pipelines: tuple[AllowedView, ...]


def rights_of(caller: Caller) -> MeView:
    """The operations that the caller may do with each pipeline that it may see, and everywhere."""
    identity, pipelines = caller.identity, caller.service.pipelines
    namespaces = {pipeline.namespace for pipeline in pipelines.values()}
    allowed = _allowed(identity, {*namespaces, EVERYWHERE})
    by_name = OF_ONE if len(pipelines) <= MOST_NAMED else ()

    def of(pipeline: Pipeline) -> AllowedView:
        there = allowed[pipeline.namespace]
        # What is allowed with all of a namespace need not be asked of one.
        more = {it for it in by_name if it not in there and identity.may(it, pipeline.namespace, pipeline)}
        operations = tuple(each for each in Operation if each in there or each in more)
        return AllowedView(pipeline.name, pipeline.namespace, operations)

    return MeView(
        name=identity.name,
        everywhere=allowed[EVERYWHERE],
        pipelines=tuple(of(pipelines[name]) for name in sorted(pipelines)),
    )


def _allowed(identity: Identity, namespaces: Iterable[str]) -> dict[str, tuple[Operation, ...]]:
    """The operations that are allowed, by namespace: of many pipelines in one it is asked once."""
    return {
        namespace: tuple(
            each
            for each in Operation
            # To operate is of every namespace or of none.
            if (each is not Operation.OPERATE or namespace == EVERYWHERE) and identity.may(each, namespace)
        )
        for namespace in namespaces
    }
