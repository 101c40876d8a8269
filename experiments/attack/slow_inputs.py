"""Search for slow inputs: the text that takes each parser longest, and how that grows with its size.

    python -m experiments.attack.slow_inputs [--rounds N] [--seed N] [PARSER ...]

An input is a place with a hole, and a unit repeated in it until the size is reached. Places and units are
drawn and varied, and the slowest is kept. Then it is tried at a quarter, half and whole of the parser's
largest size: an exponent near 1 is linear, 2 is quadratic. Exit code 1 if a parser takes longer than its
bound or grows faster.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log2

from experiments.attack.parsers import PARSERS, Parser
from ipa.api.wiring import settle

HOLE = "@"
# Small enough for many tries, large enough to tell a square from a line.
TRY_BYTES = 8192
# CPU seconds of a try beyond which nothing slower is looked for.
SLOW_S = 1.0
# Below this a time says nothing about growth.
SHORT_S = 0.004
# A thread's CPU time too is longer beside others, which share its caches and its core. What seems slow is
# measured this often, and the least of each size counts.
TRIES = 6


@dataclass(frozen=True, slots=True)
class Shape:
    """An input of any size."""

    place: str
    unit: str

    def text(self, size_bytes: int) -> str:
        """The input of about that size, in which `#` in a unit is its number."""
        before, _, after = self.place.partition(HOLE)
        # A separator at the end of a unit stands between two of them only.
        body = self.unit
        room = max(size_bytes - len(before) - len(after), 1)
        if "#" not in body:
            text = body * (room // max(len(body), 1) + 1)
            text = text[: room // len(body) * len(body)] or body
        else:
            units, size = [], 0
            while size < room:
                units.append(body.replace("#", str(len(units))))
                size += len(units[-1])
            text = "".join(units)
        return before + (text[:-1] if text.endswith(",") else text) + after


@dataclass(frozen=True, slots=True)
class SlowestInput:
    """The slowest input of a parser."""

    parser: str
    shape: Shape
    size_bytes: int
    seconds: float
    bound_s: float
    exponent: float

    @property
    def is_slow(self) -> bool:
        """True if it takes longer than the bound, or the time grows clearly faster than the input."""
        return self.seconds > self.bound_s or (self.exponent > 1.5 and self.seconds > self.bound_s / 4)


def cpu_s(parser: Parser, text: str, runs: int = 1) -> float:
    """CPU seconds of this thread to parse the text: the least of some runs."""
    best = float("inf")
    value = parser.encode(text)
    for _ in range(runs):
        began_s = time.thread_time()
        parser.parse(value)
        best = min(best, time.thread_time() - began_s)
    return best


def search(parser: Parser, rounds: int, seed: int = 1) -> SlowestInput:
    """The slowest input after that many tries: hill climbing from the best of the first half."""
    chance = random.Random(f"{seed} {parser.name}")
    size = min(TRY_BYTES, parser.size_bytes)
    best, best_s = Shape(parser.places[0], parser.units[0]), -1.0
    for number in range(rounds):
        shape = _drawn(parser, chance) if number < rounds // 2 else _varied(parser, best, chance)
        taken_s = cpu_s(parser, shape.text(size))
        if taken_s > best_s:
            # Once more, since another process may have been in the way.
            taken_s = min(taken_s, cpu_s(parser, shape.text(size)))
        if taken_s > best_s:
            best, best_s = shape, taken_s
        if best_s > SLOW_S:
            break
    return measured(parser, best)


def measured(parser: Parser, shape: Shape) -> SlowestInput:
    """The figures of an input at a quarter, half and whole of the parser's largest size."""
    least: dict[int, float] = {}
    worst = _figures(parser, shape, least)
    for _ in range(TRIES - 1):
        # Beyond this no other process is the cause.
        if not worst.is_slow or worst.seconds > SLOW_S:
            break
        worst = _figures(parser, shape, least)
    return worst


def _figures(parser: Parser, shape: Shape, least: dict[int, float]) -> SlowestInput:
    """The figures of one measurement; `least` has the least CPU seconds of those before, by size."""
    sizes = [parser.size_bytes // part for part in (4, 2, 1)]
    times: list[float] = []
    for size in sizes:
        runs = 2 if not times or times[-1] < SLOW_S / 8 else 1
        least[size] = min(least.get(size, float("inf")), cpu_s(parser, shape.text(size), runs))
        times.append(least[size])
        if times[-1] > SLOW_S:
            break
    first, last = max(times[0], SHORT_S / 4), times[-1]
    steps = len(times) - 1
    exponent = (
        log2(max(last, 1e-9) / first) / steps if steps and last > SHORT_S else (2.0 if not steps else 0.0)
    )
    return SlowestInput(parser.name, shape, sizes[len(times) - 1], last, parser.bound_s, exponent)


def _drawn(parser: Parser, chance: random.Random) -> Shape:
    unit = "".join(chance.choice(parser.units) for _ in range(chance.choice((1, 1, 2, 3))))
    return Shape(chance.choice(parser.places), unit)


def _varied(parser: Parser, shape: Shape, chance: random.Random) -> Shape:
    match chance.randrange(4):
        case 0:
            return Shape(chance.choice(parser.places), shape.unit)
        case 1:
            return Shape(shape.place, shape.unit + chance.choice(parser.units))
        case 2:
            return Shape(shape.place, chance.choice(parser.units) + shape.unit)
        case _:
            return Shape(shape.place, chance.choice(parser.units))


def table(results: Sequence[SlowestInput]) -> str:
    """The findings, a line a parser."""
    lines = [f"{'parser':34} {'bytes':>9} {'CPU ms':>8} {'bound':>6} {'exponent':>8}  worst input"]
    for each in results:
        mark = "SLOW" if each.is_slow else ""
        before, _, after = each.shape.place.partition(HOLE)
        shown = f"{before[-24:]!r} {each.shape.unit[:40]!r}×n {after[:12]!r}"
        lines.append(
            f"{each.parser:34} {each.size_bytes:9} {each.seconds * 1e3:8.1f} {each.bound_s * 1e3:6.0f} "
            f"{each.exponent:8.2f}  {shown} {mark}".rstrip()
        )
    return "\n".join(lines)


def main(tell: Callable[[str], object] = print) -> int:
    """Search for every parser and print the table."""
    options = argparse.ArgumentParser(prog="python -m experiments.attack.slow_inputs", description=__doc__)
    options.add_argument("--rounds", type=int, default=300, help="inputs tried for each parser")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("parsers", nargs="*", help="only those whose names contain one of these")
    args = options.parse_args()
    chosen = [
        each for each in PARSERS() if not args.parsers or any(part in each.name for part in args.parsers)
    ]
    # As the service does once it has started: a pass over all modules is no part of any parser.
    settle()
    results = [search(each, args.rounds, args.seed) for each in chosen]
    tell(table(results))
    slow = [each.parser for each in results if each.is_slow]
    tell(f"\n{len(slow)} of {len(results)} parsers are slow{': ' if slow else ''}{', '.join(slow)}")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
