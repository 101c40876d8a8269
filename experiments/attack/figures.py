"""Figures of attacks: each with what is asked of it, and the table of all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured figure. It is missed where it is above `at_most` or below `at_least`; `told` explains it."""

    name: str
    value: float
    at_most: float | None = None
    at_least: float | None = None
    told: str = ""

    @property
    def is_met(self) -> bool:
        """True if it keeps its bounds; one without any does."""
        is_below = self.at_most is None or self.value <= self.at_most
        return is_below and (self.at_least is None or self.value >= self.at_least)

    @property
    def asked(self) -> str:
        """Its bounds, in words."""
        bounds = (("≤", self.at_most), ("≥", self.at_least))
        return " ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)

    def row(self, attack: str) -> str:
        """A line of the table."""
        mark = ("met" if self.is_met else "MISSED") if self.asked else ""
        return f"| {attack} | {self.name} | {self.value:.4g} | {self.asked} | {mark} | {self.told} |"


HEAD = "| attack | figure | value | asked | | |\n|---|---|---:|---|---|---|"


def table(found: Mapping[str, Iterable[Figure]]) -> str:
    """The table of all figures, by attack, and how many of those asked for are met."""
    figures = [(attack, each) for attack, several in found.items() for each in several]
    asked = [each for _, each in figures if each.asked]
    met = sum(each.is_met for each in asked)
    rows = "\n".join(each.row(attack) for attack, each in figures)
    return f"{HEAD}\n{rows}\n\n{met} of {len(asked)} figures are met."


def print_table(found: Mapping[str, Iterable[Figure]]) -> int:
    """Print the table; the exit code: 1 where a figure is missed."""
    print(table(found))
    return int(not all(each.is_met for several in found.values() for each in several))


def worst_of(text: str) -> str:
    """Of a table as `make attack` writes it: its machine, and each bound with the figure next to it."""
    lines = text.splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    bounds: dict[tuple[str, str], list[tuple[float, str, str]]] = {}
    for attack, name, value, asked, mark, _told in rows[1:]:
        if asked:
            bounds.setdefault((name, asked), []).append((float(value), attack, mark))
    found, exact = [], []
    for (name, asked), figures in bounds.items():
        worst, attack, _ = (min if asked.startswith("≥") else max)(figures)
        missed = sum(mark == "MISSED" for _, _, mark in figures)
        if asked in ("≤ 0", "≥ 1") and not missed:
            exact.append(f"{name} {worst:g}")
            continue
        # Where nothing is asked to happen and nothing does, no attack is the worst.
        is_alike = len(figures) > 1 and all(each == worst for each, _, _ in figures)
        at = "each alike" if is_alike else attack
        found.append(f"| {name} | {len(figures)} | {asked} | {worst:g} | {at} | {missed or ''} |")
    head = "| figure | attacks | asked | worst | at | missed |\n|---|---:|---|---:|---|---:|"
    nothing = f"As asked: {', '.join(dict.fromkeys(exact))}."
    return "\n".join([lines[0] + ".", "", head, *found, "", nothing, "", lines[-1]])
