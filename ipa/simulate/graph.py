"""A pipeline in virtual time: requests pass its graph of stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ipa.model.errors import NotFoundError
from ipa.model.pipeline import Pipeline, StageKind
from ipa.simulate.admission import Admission, StageCapacity
from ipa.simulate.columns import Bools, Floats, Ints, grown
from ipa.simulate.queue import Pods
from ipa.simulate.routes import Link, Routes
from ipa.simulate.stage import StageSim


@dataclass(frozen=True, slots=True)
class FinishedRequests:
    """Requests that ended, in the order in which they ended; columns of equal length.

    `done_s` is when the last stage had served it, or when it was lost (dropped or failed at a stage).
    """

    ids: Ints
    born_s: Floats
    done_s: Floats
    lost: Bools

    @property
    def latency_s(self) -> Floats:
        """Seconds from birth to end."""
        return self.done_s - self.born_s


class PipelineSim:
    """The stages of a pipeline in virtual time; `run` advances it, in calls of any length with equal results.

    A router sends a request to one of the stages after it, by the edges' shares; any other stage to all of
    them. A stage with several before it begins a request when all of those that it visits are done with it.
    Each item of a parent makes `fan_out` items, by the variant that served it; a total that is not whole is
    rounded up or down at random with that mean; a stage that gets none is passed at once. After a join the
    first of the edges counts. A request is lost with the first stage that loses it. Stages without variants
    take no time. A stage's `hop_s` is added before it. The other settings are those of `StageSim`,
    for all stages.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        drop: str = "request",
        queue: str = "central",
        seed: int = 0,
        kernel: str = "auto",
    ) -> None:
        self.pipeline = pipeline
        self._stages = {
            stage.name: StageSim(
                batch_timeout_s=stage.batch_timeout_s,
                drop_after_s=pipeline.drop_after_s,
                drop=drop,
                queue=queue,
                seed=(seed, 0, at),
                kernel=kernel,
            )
            for at, stage in enumerate(pipeline.stages)
            if stage.variants
        }
        self._admission: Admission | None = None
        if drop == "deadline" and pipeline.drop_after_s is not None:
            self._admission = Admission(pipeline.drop_after_s)
        self._capacities: dict[str, StageCapacity] = {}
        self._routes = Routes(pipeline, seed)
        self._born_s = np.empty(0)
        self._offered = 0
        self._finished = 0
        # For each stage, the requests sent by its parents that it has not begun.
        self._sent: list[list[tuple[Ints, Floats]]] = [[] for _ in pipeline.stages]
        self.now_s = 0.0  # it has run until then

    @property
    def inside(self) -> int:
        """Requests that were offered and have not ended."""
        return self._offered - self._finished

    def stage(self, name: str) -> StageSim:
        """The stage of that name, to slow, fail or inspect; NotFoundError if no such stage serves."""
        if name not in self._stages:
            raise NotFoundError(
                f"pipeline {self.pipeline.name!r} has no stage {name!r} that serves",
                hint=f"It has: {', '.join(self._stages)}",
            )
        return self._stages[name]

    def set_replicas(self, stage: str, at_s: float, pods: Sequence[Pods]) -> None:
        """Serve that stage with these groups from `at_s` on; see `StageSim.set_replicas`."""
        self.stage(stage).set_replicas(at_s, pods)
        if self._admission is not None:
            self._capacities[stage] = StageCapacity(
                sum(it.count * it.batch_size / it.service.full_s for it in pods),
                sum((it.count + 1) * it.batch_size for it in pods),
                max((it.service.usual_s(it.batch_size, it.batch_size) for it in pods), default=0.0),
            )
            self._set_deadlines(at_s, self._admission)

    def _set_deadlines(self, at_s: float, admission: Admission) -> None:
        """Let each stage leave the later ones the time that they usually take."""
        # By number: the usual time from here on.
        rest_s = [0.0] * len(self.pipeline.stages)
        for at, stage in reversed(list(enumerate(self.pipeline.stages))):
            after_s = [rest_s[link.child] for link in self._routes.links[at]]
            # A router sends a request to one of them, any other stage to all.
            choose = min if stage.kind is StageKind.ROUTER else max
            usual_s = self._capacities[stage.name].usual_s if stage.name in self._capacities else 0.0
            rest_s[at] = choose(after_s, default=0.0) + usual_s
            if stage.name in self._capacities:
                self._stages[stage.name].set_give_way(at_s, admission.deadline_s - rest_s[at])
        # Only of a chain without fan-out are a stage's requests the pipeline's.
        if self.pipeline.is_chain and not self._routes.has_items:
            admission.set_stages(at_s, self._capacities)

    def offer(self, times_s: ArrayLike) -> Ints:
        """Offer requests at `times_s`: rising, none before `now_s`. Returns their ids (0, 1, 2, ...)."""
        times = np.ascontiguousarray(times_s, dtype=np.float64)
        ids = np.arange(self._offered, self._offered + len(times))
        self._offered += len(times)
        self._born_s = grown(self._born_s, self._offered)
        self._born_s[self._offered - len(times) : self._offered] = times
        self._routes.draw(self._offered - len(times), len(times))
        for at, before in enumerate(self._routes.before):
            if not before:
                self._sent[at].append((ids, times))
        return ids

    def run(self, until_s: float) -> FinishedRequests:
        """Advance to `until_s` and return the requests that ended in [now_s, until_s)."""
        ended: list[tuple[Ints, Floats, Bools]] = []
        for at, stage in enumerate(self.pipeline.stages):
            ids, times_s = self._arrived(at, until_s)
            if self._admission is not None and not self._routes.before[at]:
                refused = self._admission.refused(times_s)
                ended.append((ids[refused], times_s[refused], refused[refused]))
                ids, times_s = ids[~refused], times_s[~refused]
            sim = self._stages.get(stage.name)
            if sim is None:
                lost: Bools = np.zeros(len(ids), dtype=np.bool_)
                server = np.full(len(ids), -1)
            else:
                came_s = times_s + stage.hop_s if stage.hop_s else times_s
                born_s = self._born_s[ids] if self._routes.before[at] else times_s
                sim.offer(came_s, ids, born_s, self._routes.items(at, ids))
                served = sim.run(until_s)
                ids, times_s, lost, server = served.ids, served.done_s, served.dropped, served.server
            links = self._routes.links[at]
            if not links:
                ended.append((ids, times_s, lost))
            elif lost.any():
                ended.append((ids[lost], times_s[lost], lost[lost]))
                ids, times_s, server = ids[~lost], times_s[~lost], server[~lost]
            for link in links:
                self._send(link, ids, times_s, server, () if sim is None else sim.variants)
        self.now_s = float(until_s)
        return self._finish(ended)

    def _arrived(self, at: int, until_s: float) -> tuple[Ints, Floats]:
        """The requests that begin at a stage before `until_s`."""
        sent = self._sent[at]
        if not sent:
            return np.empty(0, dtype=np.int64), np.empty(0)
        ids, times_s = sent[0] if len(sent) == 1 else map(np.concatenate, zip(*sent, strict=True))
        if self._routes.before[at]:
            self._sent[at] = []
            return self._routes.arrive(at, ids, times_s)
        # Requests may be offered long before they arrive.
        cut = int(np.searchsorted(times_s, until_s))
        self._sent[at] = [(ids[cut:], times_s[cut:])] if cut < len(ids) else []
        return ids[:cut], times_s[:cut]

    def _send(self, link: Link, ids: Ints, times_s: Floats, server: Ints, variants: Sequence[str]) -> None:
        takes = self._routes.takes(link, ids)
        if takes is not None:
            ids, times_s, server = ids[takes], times_s[takes], server[takes]
        if len(ids):
            self._routes.send(link, ids, variants, server)
            self._sent[link.child].append((ids, times_s))

    def _finish(self, ended: Sequence[tuple[Ints, Floats, Bools]]) -> FinishedRequests:
        if not ended:
            return FinishedRequests(
                np.empty(0, dtype=np.int64), np.empty(0), np.empty(0), np.empty(0, dtype=np.bool_)
            )
        ids, done_s, lost = ended[0]
        if len(ended) > 1:
            ids, done_s, lost = (np.concatenate(column) for column in zip(*ended, strict=True))
            order = np.argsort(done_s, kind="stable")
            ids, done_s, lost = ids[order], done_s[order], lost[order]
        ends = self._routes.end(ids, lost)
        if not ends.all():
            ids, done_s, lost = ids[ends], done_s[ends], lost[ends]
        self._finished += len(ids)
        return FinishedRequests(ids, self._born_s[ids], done_s, lost)

    def arrivals_per_s(self) -> Mapping[str, Ints]:
        """For each stage that serves, the requests that arrived in each second, from 0 on."""
        return {name: stage.arrivals_per_s() for name, stage in self._stages.items()}

    def items_per_s(self) -> Mapping[str, Ints]:
        """For each stage that serves, the items that arrived in each second, from 0 on."""
        return {name: stage.items_per_s() for name, stage in self._stages.items()}

    def waiting_per_s(self) -> Mapping[str, Ints]:
        """For each stage that serves, the items that wait at the end of each second, from 0 on."""
        return {name: stage.waiting_per_s() for name, stage in self._stages.items()}
