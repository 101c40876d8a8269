"""Items and latency along a chain of stages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from operator import mul


def items_per_request(fan_outs: Sequence[float]) -> tuple[float, ...]:
    """How many items of one request reach each stage: k_s, the product of the fan-outs before it.

    The rate at a stage is λ·k_s items a second. All ones where no stage fans out.
    """
    return tuple(accumulate(fan_outs[:-1], mul, initial=1.0))


def chain_latency_s(stages: Iterable[tuple[float, float]]) -> float:
    """The latency of a request along the chain, from (service latency, queueing delay) of each stage."""
    return sum(latency_s + queue_delay_s for latency_s, queue_delay_s in stages)
