"""Budgets of lines and words by room: measured, refused above, and lowered, never raised.

`python -m tools.budgets` prints the figures and lowers each budget in `BUDGETS` to what its files have now;
`make architecture` calls it. tests/architecture refuses files above their budget, and a budget above that of
an earlier commit. `goal` is where a budget is to arrive. A decision in docs/adr may lend `owed` of it,
which is paid back first. Lines count blanks and comments.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich import print as show
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
BUDGETS = "tests/architecture/budgets.json"


@dataclass(frozen=True, slots=True)
class Budget:
    """The lines or words that the files of some rooms may have; `files` are glob patterns."""

    name: str
    files: tuple[str, ...]
    unit: str
    budget: int
    goal: int
    owed: int = 0

    @property
    def is_room(self) -> bool:
        """True if its files are Python inside the package, and what goes with them."""
        return self.files[0].startswith("ipa/") and self.files[0].endswith(".py")

    @property
    def own(self) -> int:
        """The budget without what is lent to it."""
        return self.budget - self.owed

    def paths(self, root: Path) -> set[Path]:
        """The files below the root that count."""
        return {path for pattern in self.files for path in root.glob(pattern)}

    def measured(self, root: Path) -> int:
        """The lines or words that they have."""
        texts = (path.read_text("utf-8") for path in self.paths(root))
        return sum(len(text.split() if self.unit == "words" else text.splitlines()) for text in texts)


def budgets(text: str) -> list[Budget]:
    """The budgets that such a file has."""
    return [Budget(**{**each, "files": tuple(each["files"])}) for each in json.loads(text)]


def faults(now: list[Budget], before: list[Budget], root: Path) -> list[str]:
    """A line for each room above its budget, and for each budget that rose or went away since `before`.

    One may rise by what those of other rooms of the package fall with it; what it owes does not count.
    """
    above = [
        f"{each.name} has {each.measured(root)} {each.unit}; its budget is {each.budget}: "
        "take away as many as are added, in the same room"
        for each in now
        if each.measured(root) > each.budget
    ]
    left = {each.name: each.own for each in now}
    rooms = [each for each in before if each.is_room and each.name in left]
    are_moved = sum(left[each.name] for each in rooms) <= sum(each.own for each in rooms)
    moved = {each.name for each in rooms if are_moved}
    rose = [
        f"the budget of {each.name}, without what it owes, was {each.own} and is "
        f"{left.get(each.name, 'gone')}: budgets only fall"
        for each in before
        if each.name not in moved and left.get(each.name, each.own + 1) > each.own
    ]
    return above + rose


def committed(root: Path = ROOT) -> list[list[Budget]]:
    """The budgets of the last two commits that changed them; none without a history, as in an archive."""
    log = ["git", "log", "-2", "--format=%H", "--", BUDGETS]
    done = subprocess.run(log, cwd=root, capture_output=True, text=True, check=False)
    return [
        budgets(subprocess.check_output(["git", "show", f"{commit}:{BUDGETS}"], cwd=root, text=True))
        for commit in done.stdout.split()
    ]


def main(root: Path = ROOT) -> None:
    """Print the budgets, and lower them to the present figures."""
    table = Table("room", "unit", *("now", "budget", "owed", "goal", "over the goal"), title="Budgets")
    for column in table.columns[2:]:
        column.justify = "right"
    path = root / BUDGETS
    lowered = []
    for each in budgets(path.read_text("utf-8")):
        now = each.measured(root)
        figures = (now, each.budget, each.owed, each.goal, max(now - each.goal, 0))
        table.add_row(each.name, each.unit, *map(str, figures))
        paid = max(each.budget - now, 0)
        lowered.append(replace(each, budget=each.budget - paid, owed=max(each.owed - paid, 0)))
    path.write_text(json.dumps([asdict(each) for each in lowered], indent=1) + "\n", "utf-8")
    package = sum(each.measured(root) for each in lowered if each.is_room)
    table.add_section()
    table.add_row("ipa/, all rooms", "lines", str(package))
    show(table)


if __name__ == "__main__":
    main()
