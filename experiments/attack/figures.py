"""Figures of attacks: each with what is asked of it, and the table of all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured figure. It is missed where it is above `at_most` or below `at_least`; `note` explains it."""

    name: str
    value: float
    at_most: float | None = None
    at_least: float | None = None
    note: str = ""

    @property
    def is_met(self) -> bool:
        """True if it keeps its bounds; one without any does."""
        is_below = self.at_most is None or self.value <= self.at_most
        return is_below and (self.at_least is None or self.value >= self.at_least)

    @property
    def goal(self) -> str:
        """Its bounds, in words."""
        bounds = (("≤", self.at_most), ("≥", self.at_least))
        return " ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)

    def row(self, attack: str) -> str:
        """A line of the table."""
        mark = ("met" if self.is_met else "MISSED") if self.goal else ""
        return f"| {attack} | {self.name} | {self.value:.4g} | {self.goal} | {mark} | {self.note} |"


HEAD = "| attack | figure | value | asked | | |\n|---|---|---:|---|---|---|"


def table(attacks: Mapping[str, Iterable[Figure]]) -> str:
    """The table of all figures, by attack, and how many of those asked for are met."""
    figures = [(attack, each) for attack, several in attacks.items() for each in several]
    bounded = [each for _, each in figures if each.goal]
    met = sum(each.is_met for each in bounded)
    rows = "\n".join(each.row(attack) for attack, each in figures)
    return f"{HEAD}\n{rows}\n\n{met} of {len(bounded)} figures are met."


def print_table(attacks: Mapping[str, Iterable[Figure]]) -> int:
    """Print the table; the exit code: 1 where a figure is missed."""
    print(table(attacks))
    return int(not all(each.is_met for several in attacks.values() for each in several))


def worst_of(text: str) -> str:
    """Of a table as `make attack` writes it: its machine, and each bound with the figure next to it."""
    lines = text.splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    bounds: dict[tuple[str, str], list[tuple[float, str, str]]] = {}
    for attack, name, value, bound, mark, _told in rows[1:]:
        if bound:
            bounds.setdefault((name, bound), []).append((float(value), attack, mark))
    lines_shown: list[str] = []
    exact: list[str] = []
    for (name, bound), figures in bounds.items():
        worst, attack, _ = (min if bound.startswith("≥") else max)(figures)
        missed = sum(mark == "MISSED" for _, _, mark in figures)
        if bound in ("≤ 0", "≥ 1") and not missed:
            exact.append(name)
            continue
        # Where nothing is asked to happen and nothing does, no attack is the worst.
        is_alike = len(figures) > 1 and all(each == worst for each, _, _ in figures)
        at = "each alike" if is_alike else attack
        lines_shown.append(f"| {name} | {len(figures)} | {bound} | {worst:g} | {at} | {missed or ''} |")
    head = "| figure | attacks | asked | worst | at | missed |\n|---|---:|---|---:|---|---:|"
    nothing = f"Besides, {len(exact)} of which all or none is asked: as asked."
    return "\n".join([lines[0] + ".", "", head, *lines_shown, "", nothing, "", lines[-1]])
