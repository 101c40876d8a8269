"""A batching stage as SimPy processes: written for comparison, from the rules and not from the simulator."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

import simpy

# Two sums of the same times in another order differ by rounding.
ROUNDING_S = 1e-12


@dataclass
class SimpyStage:
    """A central queue and alike replicas; `drop` as in the simulator. `then` is told of what was served.

    A batch fills until it begins, or with `seals` until it is due.
    """

    env: simpy.Environment
    batch_size: int
    replicas: int
    timeout_s: float
    means_s: Sequence[float]
    factors: Sequence[float]
    drop: str = "none"
    drop_after_s: float = inf
    then: Callable[[int, float], None] | None = None
    seals: bool = False
    done_s: dict[int, float] = field(default_factory=dict)
    dropped: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.queue: deque[tuple[float, int, float]] = deque()
        self.sealed: deque[list[tuple[float, int, float]]] = deque()
        self.free = self.replicas
        self.batches = 0
        self.changed = self.env.event()
        self.env.process(self._form())

    def arrive(self, request: int, born_s: float) -> None:
        self.queue.append((self.env.now, request, born_s))
        self._wake()

    def _wake(self) -> None:
        self.changed.succeed()
        self.changed = self.env.event()

    def _is_old(self, born_s: float) -> bool:
        return born_s + self.drop_after_s <= self.env.now + ROUNDING_S

    def _form(self) -> Generator[Any, Any, None]:
        while True:
            while self.drop == "request" and self.queue and self._is_old(self.queue[0][2]):
                self.dropped.add(self.queue.popleft()[1])
            if not self.queue:
                yield self.changed
                continue
            oldest_s = self.queue[0][0] + self.timeout_s
            is_due = len(self.queue) >= self.batch_size or oldest_s <= self.env.now + ROUNDING_S
            if is_due and self.seals:
                size = min(self.batch_size, len(self.queue))
                self.sealed.append([self.queue.popleft() for _ in range(size)])
                self._serve_sealed()
                continue
            if is_due and self.free:
                self._begin()
                continue
            moments = [oldest_s] if self.free or self.seals else []
            moments += [self.queue[0][2] + self.drop_after_s] if self.drop == "request" else []
            waits = [self.env.timeout(at - self.env.now) for at in moments if self.env.now < at < inf]
            yield self.env.any_of([self.changed, *waits])

    def _begin(self) -> None:
        batch: list[tuple[float, int, float]] = []
        while self.queue and len(batch) < self.batch_size:
            item = self.queue.popleft()
            if self.drop == "request" and self._is_old(item[2]):
                self.dropped.add(item[1])
            else:
                batch.append(item)
        if self.drop == "batch" and self._is_old(min(born_s for _, _, born_s in batch)):
            self.dropped.update(request for _, request, _ in batch)
            return
        self.free -= 1
        self.env.process(self._serve(batch))

    def _serve_sealed(self) -> None:
        while self.free and self.sealed:
            self.free -= 1
            self.env.process(self._serve(self.sealed.popleft()))

    def _serve(self, batch: list[tuple[float, int, float]]) -> Generator[Any, Any, None]:
        factor = self.factors[self.batches]
        self.batches += 1
        yield self.env.timeout(self.means_s[len(batch)] * factor)
        self.free += 1
        for _, request, born_s in batch:
            if self.drop == "request" and self.env.now > born_s + self.drop_after_s:
                # Its caller has had the refusal.
                self.dropped.add(request)
                continue
            self.done_s[request] = self.env.now
            if self.then:
                self.then(request, born_s)
        self._serve_sealed()
        self._wake()


def feed(env: simpy.Environment, stage: SimpyStage, times_s: Sequence[float]) -> None:
    """Requests 0, 1, 2, ... come to the stage at these times."""

    def source() -> Generator[Any, Any, None]:
        for request, at_s in enumerate(times_s):
            yield env.timeout(at_s - env.now)
            stage.arrive(request, at_s)

    env.process(source())
