"""Undo: the changes that a rollback takes back, and the configuration that it restores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ipa.control.engine.actuation import IN_FLIGHT, ActuationPhase
from ipa.control.ports import DecisionLog
from ipa.model.decision import Decision, ReasonCode
from ipa.model.errors import ConflictError, InProgressError, NotFoundError
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig

Configs = tuple[StageConfig, ...]
# The steps of one change, the oldest first.
Steps = list[Decision]
# The newest changes that are looked through; with its inputs one is some tens of kilobytes.
LOOK_BACK = 50


@dataclass(frozen=True, slots=True)
class RevisionView:
    """A change in all its steps. `revision` is the tick of its last one, `by` is empty for the service's."""

    revision: int
    decision_id: str
    at: str
    reason: ReasonCode
    detail: str
    by: str


@dataclass(frozen=True, slots=True)
class UndoView:
    """The effect of a rollback now: `previous` runs, and `configs` are restored; `words` say why these.

    `takes_back` are the changes that it takes back, the newest first; empty if it restores a revision by its
    number. `unconfirmed` says which capacity it takes while requests are late; empty if it takes none.
    """

    words: str
    takes_back: tuple[RevisionView, ...]
    previous: Configs
    configs: Configs
    unconfirmed: str = ""

    @property
    def undoes(self) -> str:
        """The decision whose change is taken back, with all later ones; empty for a revision."""
        return self.takes_back[-1].decision_id if self.takes_back else ""


def undo_of(
    pipeline: Pipeline,
    log: DecisionLog,
    to: str | None,
    whose: str | None,
    running: Configs,
    phase: ActuationPhase,
) -> UndoView:
    """The undo of that person's last change (None: of anybody's), or the return to the revision `to`.

    `to` is a number of `ipa history`, or the id of a decision. Errors: ConflictError (nothing is left to take
    back), InProgressError (another change rolls out), NotFoundError (no such revision).
    """
    applied = log.decisions(pipeline.name, limit=LOOK_BACK, applied_only=True)
    # While a change rolls out, what runs may be a read from before its write.
    settled = () if phase in IN_FLIGHT else running
    acts = _standing(_in_force(applied, settled))
    if to is not None:
        found = _revision(pipeline, log, to)
        steps = next((each for each in acts if found.decision_id in _ids(each)), [found])
        return UndoView(f"restores revision {found.tick}", (), running, steps[-1].configs)
    at = _last_of(pipeline, acts, whose, settled)
    if phase in IN_FLIGHT and applied and (at is None or applied[0].decision_id not in _ids(acts[at])):
        newest = applied[0]
        raise InProgressError(
            f"a change is in progress: revision {newest.tick}, {newest.reason.value}: {newest.detail}",
            hint=f"`ipa watch {pipeline.name} --until settled` waits for that; `--to REVISION` replaces it.",
        )
    if at is None:
        raise _nothing_left(pipeline, acts, whose)
    undone = tuple(_view(each) for each in reversed(acts[at:]))
    words = f"takes back revision {undone[-1].revision}"
    if len(undone) > 1:
        words += f" and {len(undone) - 1} later change{'s' if len(undone) > 2 else ''}"
    return UndoView(words, undone, running, _before(pipeline, acts, at))


def _nothing_left(pipeline: Pipeline, acts: Sequence[Steps], whose: str | None) -> ConflictError:
    others = [it for it in acts if it[0].reason is ReasonCode.REQUESTED and whose not in (None, it[0].by)]
    last = f"The last change of another person is revision {others[-1][-1].tick} by " if others else ""
    last += f"{others[-1][0].by or 'someone'}. " if others else ""
    none = f"{whose} has no change" if whose else "no change by a person is"
    return ConflictError(
        f"{none} left to take back among the newest {LOOK_BACK} of pipeline {pipeline.name!r}",
        hint=f"{last}`ipa history {pipeline.name}` lists the revisions; "
        f"`ipa rollback {pipeline.name} --to REVISION` restores one.",
    )


def _revision(pipeline: Pipeline, log: DecisionLog, to: str) -> Decision:
    """The change of that number or id; NotFoundError."""
    if not to.isdecimal():
        found = log.decision(to)
        if found.pipeline != pipeline.name:
            raise NotFoundError(f"decision {to!r} is of pipeline {found.pipeline!r}, not {pipeline.name!r}")
        return found
    newest = log.decisions(pipeline.name, limit=1, before_tick=int(to) + 1, applied_only=True)
    if not newest or newest[0].tick != int(to):
        raise NotFoundError(
            f"pipeline {pipeline.name!r} has no revision {to}",
            hint=f"`ipa history {pipeline.name}` lists them.",
        )
    return newest[0]


def _in_force(applied: Sequence[Decision], after: Configs) -> list[Decision]:
    """The decisions (newest first) that took effect, the oldest first; `after` is what runs, if it is known.

    One that was not written shows by its successor, which begins from the same configuration.
    """
    found: list[Decision] = []
    for decision in applied:
        is_unwritten = decision.previous == after
        if not is_unwritten or decision.configs == after:
            found.insert(0, decision)
            after = decision.previous
    return found


def _standing(decisions: Sequence[Decision]) -> list[Steps]:
    """The changes that were not taken back, the oldest first, each with its steps."""
    acts: list[Steps] = []
    # What the newest undo took back: if that fails, it is in force again.
    undone: list[Steps] = []
    rollback, is_of_undo = "", False
    for decision in decisions:
        if decision.reason is ReasonCode.ROLLBACK:
            rollback, is_of_undo = decision.decision_id, bool(undone)
            acts, undone = acts + undone, []
        if rollback and rollback in (decision.decision_id, decision.step_of):
            if acts and not is_of_undo:
                _cut(acts, decision)
        elif decision.undoes:
            at = next((at for at, it in enumerate(acts) if decision.undoes in _ids(it)), len(acts))
            acts, undone = acts[:at], acts[at:] or undone
        elif acts and _continues(decision, acts[-1][-1]):
            acts[-1].append(decision)
        else:
            acts, undone = [*acts, [decision]], []
    return acts


def _cut(acts: list[Steps], rollback: Decision) -> None:
    """Remove the newest steps that the rollback took back: one, or all up to its configuration."""
    steps = acts[-1]
    starts = [at for at, step in enumerate(steps) if step.previous == rollback.configs]
    del steps[starts[-1] if starts else 0 :]
    if not steps:
        acts.pop()


def _last_of(pipeline: Pipeline, acts: Sequence[Steps], whose: str | None, running: Configs) -> int | None:
    """The place of that person's last change; one before which the same ran as now is passed over."""
    for at in reversed(range(len(acts))):
        first, before = acts[at][0], _before(pipeline, acts, at)
        is_theirs = first.reason is ReasonCode.REQUESTED and whose in (None, first.by)
        # What created the pipeline has nothing before it.
        if is_theirs and before and before != running:
            return at
    return None


def _before(pipeline: Pipeline, acts: Sequence[Steps], at: int) -> Configs:
    """The configurations before that change.

    A state on the way to a plan may be above the budget, since old and new replicas are there together. If
    the change left it, the configurations before that way count.
    """
    configs = acts[at][0].previous
    while at > 0 and _is_partial(acts[at - 1][-1]) and pipeline.bounds.exceeded(configs):
        at -= 1
        configs = acts[at][0].previous
    return configs


def _is_partial(decision: Decision) -> bool:
    """True if its plan takes further steps."""
    return decision.plan is not None and decision.plan.configs != decision.configs


def _continues(step: Decision, last: Decision) -> bool:
    """True if it is a further step of the decision that took the `last`, or adds to that."""
    if step.reason is ReasonCode.AMENDED:
        return True
    if step.step_of:
        return step.step_of == (last.step_of or last.decision_id)
    if step.plan is None or last.plan is None or step.previous != last.configs:
        return False
    # A plan that is reached in several steps is made again before each.
    return _is_partial(last) and step.plan.configs == last.plan.configs


def _ids(steps: Steps) -> list[str]:
    return [step.decision_id for step in steps]


def _view(steps: Steps) -> RevisionView:
    first = steps[0]
    return RevisionView(steps[-1].tick, first.decision_id, first.at, first.reason, first.detail, first.by)
