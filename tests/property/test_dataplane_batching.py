"""Whatever happens to replicas and time: every accepted request ends once, with its own rows in order."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from ipa.dataplane.stagequeue import answer_batch, merged_inputs
from ipa.dataplane.tensors import Tensor, Tensors, kind_of, merge, split
from ipa.model.serving import FAN_OUT
from ipa.serving.batching import Batch, Batcher, Outcome, QueuedRequest
from tests.amounts import many

EVENTS = st.one_of(
    st.tuples(st.just("arrive"), st.integers(1, 7), st.floats(0.1, 5), st.sampled_from(["INT64", "INT32"])),
    st.tuples(st.just("take")),
    st.tuples(st.just("answer"), st.integers(0, 9)),
    st.tuples(st.just("lose"), st.integers(0, 9)),
    st.tuples(st.just("refuse"), st.integers(0, 9)),
    st.tuples(st.just("fail"), st.integers(0, 9)),
    st.tuples(st.just("pass"), st.floats(0.01, 2)),
    st.tuples(st.just("give_way"), st.floats(0.01, 2)),
    st.tuples(st.just("resize"), st.integers(1, 5)),
)


def outputs(batch: Batch) -> Tensors:
    data = merged_inputs(batch)[0].data
    return (Tensor("y", "INT64", (len(data),), [-x for x in data]),)


class World:
    """A batcher, the batches in flight, and what has ended."""

    def __init__(self) -> None:
        self.batcher = Batcher(batch_size=3, batch_timeout_s=0.5, max_items=20)
        self.now_s = 0.0
        self.flying: list[Batch] = []
        self.accepted: list[tuple[QueuedRequest, list[int]]] = []
        self.ended: list[QueuedRequest] = []
        self.next = 1

    def arrive(self, items: int, budget_s: float, datatype: str) -> None:
        data = list(range(self.next, self.next + items))
        self.next += items
        inputs = (Tensor("x", datatype, (items,), data),)
        deadline_s, kind = self.now_s + budget_s, kind_of(inputs)
        request = QueuedRequest((inputs, {}), items, self.now_s, deadline_s, kind=kind)
        had = self.batcher.waiting_items
        if self.batcher.offer(request):
            self.accepted.append((request, data))
        else:
            assert had + items > 20

    def give_way(self, usual_s: float) -> None:
        before = self.batcher.waiting_items
        dropped = self.batcher.give_way(self.now_s, usual_s)
        self.ended += dropped
        assert all(request.due_s < self.now_s + usual_s for request in dropped)
        # The others still fill a batch.
        assert not dropped or self.batcher.waiting_items >= self.batcher.batch_size
        assert self.batcher.waiting_items <= before

    def take(self) -> None:
        waiting = [request for request, _ in self.accepted if request.waiting]
        batch = self.batcher.take(self.now_s)
        if batch:
            # The earliest deadline first, and of equal ones the first to arrive.
            first = min(waiting, key=lambda request: (request.deadline_s, request.number))
            assert batch.slices[0].request is first
            assert 1 <= batch.items <= self.batcher.batch_size
            assert all(piece.request.outcome is None for piece in batch.slices)
            self.flying.append(batch)

    def answer(self, which: int) -> None:
        if self.flying:
            batch = self.flying.pop(which % len(self.flying))
            self.ended += answer_batch(self.batcher, batch, outputs(batch))

    def lose(self, which: int) -> None:
        if self.flying:
            self.ended += self.batcher.lose(self.flying.pop(which % len(self.flying)), "broken")

    def refuse(self, which: int) -> None:
        if self.flying:
            self.batcher.requeue(self.flying.pop(which % len(self.flying)))

    def fail(self, which: int) -> None:
        if self.flying:
            self.ended += self.batcher.fail(self.flying.pop(which % len(self.flying)), "broken")

    def resize(self, size: int) -> None:
        self.batcher.batch_size = size

    def let_pass(self, seconds: float) -> None:
        self.now_s += seconds
        self.ended += self.batcher.drop_late(self.now_s, 0.0)
        # Wherever they are, none is open past its deadline, and the next deadline is known.
        deadlines_s = [request.deadline_s for request, _ in self.accepted if request.outcome is None]
        assert self.batcher.next_drop_s(0.0) == min(deadlines_s, default=None)
        assert all(deadline_s > self.now_s for deadline_s in deadlines_s)

    def finish(self) -> None:
        while self.batcher.waiting_items or self.flying:
            self.let_pass(0.5)
            self.take()
            self.answer(0)


@settings(max_examples=many(75), deadline=None)
@given(st.lists(EVENTS, max_size=60))
def test_every_accepted_request_ends_exactly_once_with_its_own_rows(events: list[tuple[object, ...]]) -> None:
    world = World()
    for name, *arguments in events:
        getattr(world, "let_pass" if name == "pass" else str(name))(*arguments)
        waiting = sum(request.waiting for request, _ in world.accepted)
        assert world.batcher.waiting_items == waiting
    world.finish()
    assert sorted(map(id, world.ended)) == sorted(id(request) for request, _ in world.accepted)
    for request, data in world.accepted:
        assert request.outcome is not None
        if request.outcome is Outcome.ANSWERED:
            assert request.answer[0].data == [-x for x in data]
            assert request.answer[0].shape == (len(data),)


@given(
    counts=st.lists(st.integers(0, 4), min_size=1, max_size=8),
    cuts=st.lists(st.integers(0, 8), max_size=3),
    width=st.integers(1, 3),
    is_nested=st.booleans(),
)
def test_splitting_and_merging_give_the_batch_back(
    counts: list[int], cuts: list[int], width: int, is_nested: bool
) -> None:
    rows = [[10 * row + column for column in range(width)] for row in range(sum(counts))]
    data = rows if is_nested else [value for row in rows for value in row]
    batch = (
        Tensor(FAN_OUT, "INT64", (len(counts),), list(counts)),
        Tensor("y", "INT64", (len(rows), width), list(data)),
    )
    edges = [0, *sorted(min(cut, len(counts)) for cut in cuts), len(counts)]
    sizes = [after - before for before, after in pairwise(edges)]
    joined = merge(split(batch, sizes))
    assert [(t.name, t.shape, t.data) for t in joined] == [(t.name, t.shape, t.data) for t in batch]
