"""The rights of a caller."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ipa.model.access import EVERYWHERE, Identity, Operation
from ipa.model.pipeline import Pipeline
from ipa.service.visibility import Caller

# The operations that a role may allow on some pipelines by name.
OF_ONE = (Operation.CONTROL, Operation.APPLY, Operation.REPLACE, Operation.AMEND, Operation.REMOVE)
# Above this many pipelines the cluster is asked per namespace only, not per name.
MOST_NAMED = 50


@dataclass(frozen=True, slots=True)
class AllowedView:
    """The operations that the caller may do with a pipeline."""

    pipeline: str
    namespace: str
    operations: tuple[Operation, ...]


@dataclass(frozen=True, slots=True)
class MeView:
    """The caller by the name in the record, which is empty without authentication, and its rights.

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
    allowed = _allowed(identity, {*namespaces, EVERYWHERE})
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


def _allowed(identity: Identity, namespaces: Iterable[str]) -> dict[str, tuple[Operation, ...]]:
    """The allowed operations by namespace, each asked once for all pipelines in it."""
    return {
        namespace: tuple(
            each
            for each in Operation
            # OPERATE is a right in every namespace or in none.
            if (each is not Operation.OPERATE or namespace == EVERYWHERE) and identity.may(each, namespace)
        )
        for namespace in namespaces
    }
