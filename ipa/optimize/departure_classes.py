"""Classes of what leaves a stage whose replicas batch for themselves, for the options of the stage behind it.

How long requests wait at such a stage depends on how the replicas of the stage before space them. Its options
are timed for each class of those before; an option fits those before whose class it was timed for.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ipa.optimize.candidates import BEFORE, CandidateBlock, Candidates
from ipa.optimize.columns import Array, Index
from ipa.optimize.problem import Compat, PlanningProblem
from ipa.optimize.timing import departures_of
from ipa.queueing.in_replica import Departures


def with_classes(problem: PlanningProblem, candidates: Candidates) -> Candidates:
    """The candidates with the class of what leaves each, and a copy of those behind for each class before."""
    senders = [problem.sender(block.index) for block in candidates.blocks]
    if problem.compat is not Compat.TAIL or not any(sender is not None for sender in senders):
        return candidates
    departs = np.zeros(len(candidates.block), dtype=np.intp)
    classes: dict[int, Array] = {}
    for before in {each for each in senders if each is not None}:
        mine = np.flatnonzero(candidates.stage == before)
        departs[mine], classes[before] = _classes(candidates.take(mine))
    blocks: list[CandidateBlock] = []
    taken, owner, scalars = [], [], []
    for number, (block, sender) in enumerate(zip(candidates.blocks, senders, strict=True)):
        own = np.arange(candidates.first[number], candidates.first[number + 1])
        # Without candidates before there are no classes, and no plan.
        known = () if sender is None else classes[sender].T
        spacings: list[Array | None] = [*known] or [None]
        for at, spacing in enumerate(spacings):
            row = candidates.scalars[:, own].copy()
            if sender is not None and spacing is not None:
                share = problem.graph.reach[block.index] / problem.graph.reach[sender]
                one = Departures(*spacing[:, None]).take(slice(None), np.array([share]))
                row[BEFORE] = one.rows
            level = replace(block.level, number=block.level.number * len(spacings) + at)
            owner.append(np.full(len(own), len(blocks)))
            blocks.append(CandidateBlock(block.index, level, -1 if spacing is None else at))
            taken.append(own)
            scalars.append(row)
    copies = replace(candidates, departs=departs).take(np.concatenate(taken))
    numbers = np.concatenate(owner)
    first = np.searchsorted(numbers, np.arange(len(blocks) + 1)).tolist()
    return replace(copies, blocks=blocks, first=first, block=numbers, scalars=np.concatenate(scalars, axis=1))


def _classes(candidates: Candidates) -> tuple[Index, Array]:
    """The class of what leaves each, and the rows of `Departures` by classes."""
    rows = departures_of(
        candidates.points,
        candidates.replicas,
        candidates.rate_rps,
        candidates.items,
        candidates.timeout_s,
    )
    found, number = np.unique(rows, axis=1, return_inverse=True)
    return number.ravel(), found
