"""A pipeline in virtual time: requests are admitted or refused, and pass through its graph of stages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor, inf

import numpy as np
from numpy.typing import ArrayLike

from ipa.model.errors import NotFoundError
from ipa.model.pipeline import Edge, Pipeline, StageKind
from ipa.serving.expectation import UNKNOWN, StageTimes, total
from ipa.simulate.choosing import ChoosingQueue
from ipa.simulate.columns import NO_ITEMS, Bools, Floats, Ints, Items, RowTable
from ipa.simulate.kernel import AUTO, KernelDriver
from ipa.simulate.queue import Pods
from ipa.simulate.stage import StageSim

# The uses of the streams of random numbers; 0 is for service times.
BRANCH, ROUNDING = 1, 2
# Columns of a request that several branches may end.
ENDS_LEFT, HAS_ENDED = ("ends left",), ("has ended",)


@dataclass(frozen=True, slots=True)
class Link:
    """An edge of the graph from stage `parent` to stage `child`, as its `place`-th input."""

    parent: int
    child: int
    place: int
    edge: Edge


class Routes:
    """The route of each request by its id: drawn at its arrival, updated on its way, deleted at its end."""

    def __init__(self, pipeline: Pipeline, seed: int) -> None:
        stages = pipeline.stages
        number = {stage.name: at for at, stage in enumerate(stages)}
        links = [
            Link(number[edge.parent], at, place, edge)
            for at, stage in enumerate(stages)
            for place, edge in enumerate(stage.after)
        ]
        self.links = tuple(tuple(link for link in links if link.parent == at) for at in range(len(stages)))
        self.before = tuple(tuple(link for link in links if link.child == at) for at in range(len(stages)))
        self._routers = [
            at
            for at, stage in enumerate(stages)
            if stage.kind is StageKind.ROUTER and len(self.links[at]) > 1
        ]
        self._joins = [at for at, before in enumerate(self.before) if len(before) > 1]
        # A request on several branches may be lost on each.
        self._forks = any(len(after) > 1 for at, after in enumerate(self.links) if at not in self._routers)
        self._forks |= sum(not before for before in self.before) > 1
        self._ends = [at for at, after in enumerate(self.links) if not after]
        self.has_items = any(link.edge.fan_out != 1.0 for link in links)
        self._branch_rngs = {at: np.random.default_rng((seed, BRANCH, at)) for at in self._routers}
        self._rounding_rngs = {
            (link.child, link.place): np.random.default_rng((seed, ROUNDING, link.child, link.place))
            for link in links
            if not all(float(count).is_integer() for count in link.edge.fan_outs)
        }
        # Branch: the child that a router chose. Left: parents that a join still waits for.
        self._table = RowTable(
            {("branch", at): 0 for at in self._routers}
            | {("rounding", *key): 0.0 for key in self._rounding_rngs}
            | {("left", at): 0 for at in self._joins}
            | {("items", at): 1 for at in range(len(stages)) if self.has_items}
            | {
                ("sent", at, link.place): -1
                for at in self._joins
                for link in self.before[at]
                if self.has_items
            }
            | ({ENDS_LEFT: 0, HAS_ENDED: False} if self._forks else {})
        )

    def draw(self, ids: Ints) -> None:
        """Draw the routes of the next requests."""
        if not self._table.columns:
            return
        count = len(ids)
        if not count:
            return
        self._table.reach(int(ids[-1]) + 1)
        columns = self._table.columns
        visits: list[Bools] = []
        for at in self._routers:
            links = self.links[at]
            shares = np.cumsum([link.edge.share for link in links])
            place = np.searchsorted(shares, self._branch_rngs[at].random(count), side="right")
            children = np.array([link.child for link in links])
            columns["branch", at][ids] = children[np.minimum(place, len(links) - 1)]
        for key, rng in self._rounding_rngs.items():
            columns["rounding", *key][ids] = rng.random(count)
        for at, before in enumerate(self.before):
            live = np.array([visits[link.parent] & self.takes(link, ids) for link in before], dtype=np.bool_)
            visits.append(np.asarray(live.any(axis=0)) if before else np.ones(count, dtype=np.bool_))
            if at in self._joins:
                columns["left", at][ids] = live.sum(axis=0)
        if self._forks:
            columns[ENDS_LEFT][ids] = np.sum([visits[at] for at in self._ends], axis=0)

    def takes(self, link: Link, ids: Ints) -> Bools:
        """Per request: True if it takes the link."""
        if link.parent not in self._routers:
            return np.ones(len(ids), dtype=np.bool_)
        return np.asarray(self._table.columns["branch", link.parent][ids] == link.child)

    def send(self, link: Link, ids: Ints, variants: Sequence[str], server: Ints) -> None:
        """Record the items that these requests, served by these replicas, send along the link."""
        if not self.has_items:
            return
        columns = self._table.columns
        fan_out = link.edge.fan_out
        if isinstance(fan_out, Mapping):
            by_server = np.array([*(fan_out.get(name, 0.0) for name in variants), 0.0])
            exact = columns["items", link.parent][ids] * by_server[server]
        else:
            exact = columns["items", link.parent][ids] * float(fan_out)
        key = (link.child, link.place)
        whole = np.floor(exact + 1e-9)
        if key in self._rounding_rngs:
            whole += columns["rounding", *key][ids] < exact - whole
        goes_to = ("sent", *key) if link.child in self._joins else ("items", link.child)
        columns[goes_to][ids] = whole.astype(np.int64)

    def arrive(self, at: int, ids: Ints, times_s: Floats) -> Ints | slice:
        """The indices, in order of time, of the requests that begin at a stage now.

        At a join a request begins with its last input; ids may repeat in the arguments.
        """
        if at not in self._joins or not len(ids):
            return slice(None)
        order = np.argsort(times_s, kind="stable")
        rows, columns = ids[order], self._table.columns
        left = columns["left", at]
        np.subtract.at(left, rows, 1)
        _, last = np.unique(rows[::-1], return_index=True)
        places = np.sort(len(rows) - 1 - last)
        places = places[left[rows[places]] == 0]
        if self.has_items:
            begun = rows[places]
            for link in reversed(self.before[at]):
                sent = columns["sent", at, link.place][begun]
                columns["items", at][begun[sent >= 0]] = sent[sent >= 0]
        begun_at: Ints = order[places]
        return begun_at

    def items(self, at: int, ids: Ints) -> Ints | None:
        """The number of items that these requests bring to a stage; None if each brings one."""
        return self._table.columns["items", at][ids] if self.has_items else None

    def end(self, ids: Ints, lost: Bools) -> Bools:
        """Per item, in order of time: True if it ends its request, at the last stage or by the first loss."""
        if not self._forks:
            return np.ones(len(ids), dtype=np.bool_)
        ends_left, has_ended = self._table.columns[ENDS_LEFT], self._table.columns[HAS_ENDED]
        np.subtract.at(ends_left, ids[~lost], 1)
        ends = np.zeros(len(ids), dtype=np.bool_)
        _, last = np.unique(ids[::-1], return_index=True)
        places = len(ids) - 1 - last
        ends[places[(ends_left[ids[places]] == 0) & ~lost[places]]] = True
        places = np.flatnonzero(lost)
        _, first = np.unique(ids[places], return_index=True)
        ends[places[first]] = True
        ends &= ~has_ended[ids]
        has_ended[ids[ends]] = True
        return ends


@dataclass(frozen=True, slots=True)
class StageCapacity:
    """A stage's capacity in requests a second, the requests in service or next batch, its usual time."""

    rate_rps: float
    at_once: float
    usual_s: float


class Admission:
    """Refuses requests that would be older than `deadline_s` at their end.

    The stage of the least capacity decides: `_backlog_s` is the time that it takes for all admitted requests.
    A request is admitted if it would be in time after that and the usual times of all stages, or if no other
    waits for a place.
    """

    def __init__(self, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        # The time per request, and the most that the backlog may be.
        self._request_s, self._most_s = 0.0, inf
        self._backlog_s, self._at_s = 0.0, 0.0

    def set_stages(self, stages: Mapping[str, StageCapacity]) -> None:
        """Judge by these stages from now on; without replicas all requests wait for them."""
        least = min(stages.values(), key=lambda stage: stage.rate_rps)
        self._request_s, self._most_s = 0.0, inf
        if least.rate_rps > 0:
            self._request_s = 1 / least.rate_rps
            usual_s = sum(stage.usual_s for stage in stages.values())
            self._most_s = max(self.deadline_s - usual_s, least.at_once * self._request_s)

    def refused(self, times_s: Floats) -> Bools:
        """True for each arrival that is refused; times rise from call to call."""
        backlog_s, before_s = self._backlog_s, self._at_s
        refused = []
        for at_s in times_s.tolist():
            backlog_s = max(0.0, backlog_s - (at_s - before_s))
            before_s = at_s
            is_refused = backlog_s > self._most_s
            if not is_refused:
                backlog_s += self._request_s
            refused.append(is_refused)
        self._backlog_s, self._at_s = backlog_s, before_s
        return np.array(refused, dtype=np.bool_)


# A queue hears of the others so often; in a binary fraction, so that no moment is rounded.
TOLD_S = 1 / 8


class PipelineSim:
    """The stages of a pipeline in virtual time; `run` advances it, in calls of any length with equal results.

    A router sends a request to one of the stages after it, by the edges' shares; any other stage to all of
    them. A stage with several parents begins a request when all parents that it visits are done with it. Each
    item of a parent makes `fan_out` items, by the variant that served it; a total that is not whole is
    rounded up or down at random with that mean; a stage that gets none is passed at once. After a join the
    first of the edges counts. A request is lost with the first stage that loses it. Stages without variants
    take no time. A stage's `hop_s` is added before it. The other settings are those of `StageSim`, for all
    stages.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        queue: str = "central",
        seed: int = 0,
        kernel: KernelDriver = AUTO,
    ) -> None:
        self.pipeline = pipeline
        self._stages = {
            stage.name: StageSim(
                batch_timeout_s=stage.batch_timeout_s,
                drop_after_s=pipeline.drop_after_s,
                queue="choosing" if stage.residents > 1 and queue in ("central", "deadline") else queue,
                seed=(seed, 0, at),
                kernel=kernel,
                aim_s=pipeline.sla.latency_s,
            )
            for at, stage in enumerate(pipeline.stages)
            if stage.variants
        }
        # The queues that choose variants, by stage.
        queues = ((name, stage.queue) for name, stage in self._stages.items())
        self._choosing = {name: queue for name, queue in queues if isinstance(queue, ChoosingQueue)}
        self._admission: Admission | None = None
        if queue == "deadline" and pipeline.drop_after_s is not None and not self._choosing:
            self._admission = Admission(pipeline.drop_after_s)
        self._capacities: dict[str, StageCapacity] = {}
        self._routes = Routes(pipeline, seed)
        self._offered = 0
        self._finished = 0
        # For each stage, the requests sent by its parents that it has not begun.
        self._sent: list[list[Items]] = [[] for _ in pipeline.stages]
        self.now_s = 0.0  # it has run until then

    @property
    def inside(self) -> int:
        """The number of requests that were offered and have not ended."""
        return self._offered - self._finished

    def stage(self, name: str) -> StageSim:
        """The stage of that name, to slow, fail or inspect; NotFoundError if no such stage serves."""
        if name not in self._stages:
            raise NotFoundError(
                f"pipeline {self.pipeline.name!r} has no stage {name!r} that serves",
                hint=f"It has: {', '.join(self._stages)}",
            )
        return self._stages[name]

    def served_in(self, since_s: float, until_s: float) -> dict[str, Counter[str]]:
        """By stage that chooses variants, the items that each served after `since_s` and until `until_s`."""
        return {name: self._stages[name].served_in(since_s, until_s) for name in self._choosing}

    def set_replicas(self, stage: str, at_s: float, pods: Sequence[Pods]) -> None:
        """Serve that stage with these groups of pods from `at_s` on, up to which it has run."""
        self.stage(stage).set_replicas(at_s, pods)
        self._capacities[stage] = StageCapacity(
            sum(it.count * it.batch_size / it.service.full_s for it in pods),
            sum((it.count + 1) * it.batch_size for it in pods),
            max((it.service.usual_s(it.batch_size, it.batch_size) for it in pods), default=0.0),
        )
        if self._admission is not None:
            self._tell(at_s)
            # Only of a chain without fan-out are a stage's requests the pipeline's.
            if self.pipeline.is_chain and not self._routes.has_items:
                self._admission.set_stages(self._capacities)

    def offer(self, times_s: ArrayLike, ids: Ints | None = None) -> Ints:
        """Offer requests at `times_s`: rising, none before `now_s`. Return their ids.

        Ids rise from offer to offer; by default they are 0, 1, 2, ...
        """
        times = np.ascontiguousarray(times_s, dtype=np.float64)
        named = np.arange(self._offered, self._offered + len(times)) if ids is None else ids
        self._offered += len(times)
        self._routes.draw(named)
        offered = Items.passed(named, times, times)
        for at, before in enumerate(self._routes.before):
            if not before:
                self._sent[at].append(offered)
        return named

    def run(self, until_s: float) -> Items:
        """Advance to `until_s` and return the requests that ended in [now_s, until_s).

        `done_s` is when the last stage had served it, or when it was lost (dropped or failed at a stage).
        """
        ended: list[Items] = []
        while self._choosing and (tell_s := (floor(self.now_s / TOLD_S) + 1) * TOLD_S) <= until_s:
            ended.append(self._advance(tell_s))
            self._tell(tell_s)
        return Items.joined([*ended, self._advance(until_s)])

    def _tell(self, at_s: float) -> None:
        """Tell each queue the times of later stages, as the router does, or the age that leaves these."""
        # By number: the times from here on.
        rest = [UNKNOWN] * len(self.pipeline.stages)
        for at, stage in reversed(list(enumerate(self.pipeline.stages))):
            after = [rest[link.child] for link in self._routes.links[at]]
            # A router sends a request to one of them, any other stage to all.
            choose = min if stage.kind is StageKind.ROUTER else max
            rest[at] = choose(after, key=lambda times: times.wait_s + times.usual_s, default=UNKNOWN)
            if stage.name not in self._capacities:
                continue
            usual_s = self._capacities[stage.name].usual_s
            own = StageTimes(0.0, usual_s, usual_s)
            if queue := self._choosing.get(stage.name):
                queue.set_ahead(at_s, rest[at])
                own = queue.queue.expected(at_s)
            rest[at] = total([own, rest[at]])
            if self._admission is not None:
                self._stages[stage.name].set_give_way(at_s, self._admission.deadline_s - rest[at].usual_s)

    def _advance(self, until_s: float) -> Items:
        ended: list[Items] = []
        for at, stage in enumerate(self.pipeline.stages):
            come = self._arrived(at, until_s)
            if self._admission is not None and not self._routes.before[at]:
                refused = self._admission.refused(come.done_s)
                ended.append(come.pick(refused)._replace(lost=refused[refused]))
                come = come.pick(~refused)
            sim = self._stages.get(stage.name)
            if sim is None:
                served = Items.passed(come.ids, come.born_s, come.done_s)
            else:
                came_s = come.done_s + stage.hop_s if stage.hop_s else come.done_s
                sim.offer(came_s, come.ids, come.born_s, self._routes.items(at, come.ids))
                served = sim.run(until_s)
            links = self._routes.links[at]
            if not links:
                ended.append(served)
            elif served.lost.any():
                ended.append(served.pick(served.lost))
                served = served.pick(~served.lost)
            for link in links:
                self._send(link, served, () if sim is None else sim.queue.variants)
        self.now_s = float(until_s)
        return self._finish(ended)

    def _arrived(self, at: int, until_s: float) -> Items:
        """The requests that begin at a stage before `until_s`, with the end of its parents' work."""
        if not self._sent[at]:
            return NO_ITEMS
        sent = Items.joined(self._sent[at])
        if self._routes.before[at]:
            self._sent[at] = []
            return sent.pick(self._routes.arrive(at, sent.ids, sent.done_s))
        # Requests may be offered long before they arrive.
        cut = int(np.searchsorted(sent.done_s, until_s))
        self._sent[at] = [sent.pick(slice(cut, None))] if cut < len(sent.ids) else []
        return sent.pick(slice(cut))

    def _send(self, link: Link, served: Items, variants: Sequence[str]) -> None:
        takes = self._routes.takes(link, served.ids)
        served = served if takes.all() else served.pick(takes)
        if len(served.ids):
            self._routes.send(link, served.ids, variants, served.server)
            self._sent[link.child].append(served)

    def _finish(self, pieces: Sequence[Items]) -> Items:
        ended = Items.joined(pieces)
        if len(pieces) > 1:
            ended = ended.by_end()
        ends = self._routes.end(ended.ids, ended.lost)
        if not ends.all():
            ended = ended.pick(ends)
        self._finished += len(ended.ids)
        return ended
