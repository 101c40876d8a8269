"""Changes random places of the pure rooms, one at a time, and runs the tests that reach each change.

`make mutants` takes 200 places by a fixed seed. The changes are operators of cosmic-ray. Its own runner has
one test command for all mutants and works in place, so this file runs each mutant in a copy of the
repository, with the tests that coverage saw in the changed function. As a plugin of pytest
(`-p tools.mutants`) it keeps hypothesis from shrinking an example that has killed its mutant already.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from queue import SimpleQueue

import pytest

from tools.architecture import House
from tools.pure_tests import all_tests, imported, pure_tests

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "runs" / "mutants"
# How the last run ended for each place, written as soon as it is known.
FATES = FOLDER / "fates.json"
LIVING = ("survived", "unreached", "undecided")
# The places that are changed: rooms, and the modules of the control room that its engine imports.
ROOMS = ("model", "queueing", "optimize", "forecast", "policies", "profiling/fit.py", "simulate")
ENGINE = "ipa.control.engine.tick"
# Mistakes that a person could make. Left out are operators whose mutants behave as the original does: those
# that take decorators away, change annotations, or replace equality by identity.
OPERATORS = re.compile(
    r"core/(ReplaceBinaryOperator_(Add_Sub|Sub_Add|Mul_Div|Div_Mul|FloorDiv_Mul|Mod_Mul|Pow_Mul)"
    r"|ReplaceComparisonOperator_(Eq_NotEq|NotEq_Eq|Lt_LtE|Lt_GtE|LtE_Lt|LtE_Gt|Gt_GtE|Gt_LtE|GtE_Gt|GtE_Lt"
    r"|Is_IsNot|IsNot_Is)"
    r"|ReplaceUnaryOperator_(USub_UAdd|Delete_Not)|AddNot|ReplaceTrueWithFalse|ReplaceFalseWithTrue"
    r"|ReplaceAndWithOr|ReplaceOrWithAnd|ReplaceBreakWithContinue|ReplaceContinueWithBreak|NumberReplacer"
    r"|ZeroIterationForLoop)"
)
# What lives beyond this is a test that is missing.
GOAL_RATIO = 0.95
# CPU time of the first tests, which end an endless loop soon, and of all: the whole map takes about 150 s.
FIRST_TESTS, FIRST_CPU_S, CPU_S = 20, 60, 400
# A process that neither computes nor ends is stuck; an hour is far beyond a machine under load.
STUCK_S = 3600.0
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", "runs", "*.egg-info", ".*_cache")


def pytest_configure() -> None:
    """Stops hypothesis at the first example that fails."""
    from hypothesis import Phase, settings

    settings.register_profile("mutants", settings(), phases=(Phase.explicit, Phase.generate))
    settings.load_profile("mutants")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the order of the arguments: pytest moves a test to the place of its file if that is one too."""
    order = {name: at for at, name in enumerate(config.args)}
    last = len(order)
    items.sort(key=lambda it: order.get(it.nodeid, order.get(it.nodeid.partition("::")[0], last)))


@dataclass(frozen=True, slots=True)
class Place:
    """A place that one operator changes: the `occurrence`th of its kind in the file."""

    file: str
    line: int
    column: int
    operator: str
    occurrence: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column} {self.operator.removeprefix('core/')}"


def places(file: str) -> Iterator[Place]:
    """Every place of a file that an operator changes."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    text = (ROOT / file).read_text()
    nodes, lines = list(ast_nodes(get_ast(text))), text.splitlines()
    without_effect = list(_without_effect(ast.parse(text)))
    for name in filter(OPERATORS.fullmatch, operator_names()):
        operator = get_operator(name)()
        positions = (at for node in nodes for at, _ in operator.mutation_positions(node))
        for occurrence, (line, column) in enumerate(positions):
            # The mark of keyword-only parameters is a product to cosmic-ray.
            is_mark = lines[line - 1].startswith("*,", column)
            if not is_mark and not any(start <= (line, column) < end for start, end in without_effect):
                yield Place(file, line, column, name, occurrence)


def _without_effect(tree: ast.Module) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Start and end of what only asserts: a decorator's `frozen=True`, and `strict=True` of zip."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            asserting: list[ast.expr] = node.decorator_list
        elif isinstance(node, ast.Call):
            asserting = [each.value for each in node.keywords if each.arg == "strict"]
        else:
            continue
        for each in asserting:
            end = each.end_lineno or each.lineno, each.end_col_offset or each.col_offset + 1
            yield (each.lineno, each.col_offset), end


def drawn(count: int, seed: int) -> list[Place]:
    """Random places, each with one of the changes that can be made there.

    Each has its lot from its own text, so that it stays in the draw while other lines change.
    """
    by_place = defaultdict(list)
    for file in sources():
        lines = (ROOT / file).read_text().splitlines()
        for place in places(file):
            text = f"{seed} {file} {lines[place.line - 1].strip()} {place.column}"
            by_place[_lot(text), place.file, place.line].append((_lot(f"{text} {place.operator}"), place))
    return [min(by_place[at], key=itemgetter(0))[1] for at in sorted(by_place)[:count]]


def _lot(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def sources() -> list[str]:
    """The files of the pure rooms."""
    house = House(ROOT)
    engine, waiting = set[str](), [ENGINE]
    while waiting:
        module = waiting.pop()
        if module not in engine and module.startswith("ipa.control"):
            engine.add(module)
            waiting += house.imports[module]
    parts = {f"{module.replace('.', '/').removeprefix('ipa/')}.py" for module in engine}
    return [f"ipa/{name}" for name in house.files() if (name in parts or name.startswith(tuple(ROOMS)))]


@dataclass(frozen=True)
class Reach:
    """Which tests ran which lines, as coverage recorded them."""

    path: Path

    @cached_property
    def lines(self) -> dict[str, dict[int, set[str]]]:
        """By file and line the ids of the tests."""
        from coverage import CoverageData

        data = CoverageData(str(self.path))
        data.read()
        by_file = {}
        for name in data.measured_files():
            tests = {
                line: {context.rpartition("|")[0] for context in contexts if context}
                for line, contexts in data.contexts_by_lineno(name).items()
            }
            by_file["ipa/" + name.rpartition("/ipa/")[2]] = tests
        return by_file

    @cached_property
    def sizes(self) -> Counter[str]:
        """The lines that each test ran."""
        return Counter(test for lines in self.lines.values() for tests in lines.values() for test in tests)

    @cached_property
    def imports(self) -> Mapping[str, Collection[str]]:
        """The modules that each module of ipa imports."""
        return House(ROOT).imports

    def tests(self, place: Place) -> list[str]:
        """The ids of the tests that run the function around a place, those that run the fewest lines first.

        Code outside of functions runs at import: a place there is reached by the tests of the file and of its
        importers.
        The map knows a function behind a cache by the first test that called it, and no file of tests that is
        newer or of another room. So files that import the file are run whole, the newer first and the others
        last, and after them those that import anything of its room.
        """
        module = place.file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        importing = [path for path in all_tests() if module in imported(path)]
        drawn_s = self.path.stat().st_mtime
        newer = [str(path.relative_to(ROOT)) for path in importing if path.stat().st_mtime > drawn_s]
        room = re.match(r"ipa\.\w+", module)[0]  # type: ignore[index]
        near = [path for path in pure_tests() if any(each.startswith(room) for each in imported(path))]
        others = [str(path.relative_to(ROOT)) for path in (*importing, *near)]
        around = _function_around(ROOT / place.file, place.line)
        if around is None:
            files = [place.file, *(_file_of(name) for name, used in self.imports.items() if module in used)]
            reached = [tests for file in files for tests in self.lines.get(file, {}).values()]
        else:
            reached = [self.lines.get(place.file, {}).get(line, set()) for line in around]
        ids = {re.sub(r"@\w+$", "", test) for test in set().union(*reached)}
        old = [each for each in sorted(ids) if each.split("::")[0] not in newer]
        old.sort(key=self.sizes.__getitem__)
        return list(dict.fromkeys([*newer, *old, *others]))


def _file_of(module: str) -> str:
    path = module.replace(".", "/")
    return f"{path}.py" if (ROOT / f"{path}.py").is_file() else f"{path}/__init__.py"


def _function_around(path: Path, line: int) -> range | None:
    """The lines of the innermost function's body around a line; None outside of functions."""
    functions = [
        range(node.body[0].lineno, (node.end_lineno or line) + 1)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return min((lines for lines in functions if line in lines), key=len, default=None)


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of the repository in which mutants are run."""

    folder: Path

    def run(self, words: list[str], cpu_s: int, **variables: str) -> int:
        """The exit code of pytest in the copy; negative if it used up its CPU time."""
        shared = str(Path(os.environ.get("IPA_SHARED_DATA", ROOT.parent / "shared" / "data")))
        environment = {
            **os.environ,
            **{"PYTHONPATH": str(self.folder), "IPA_SHARED_DATA": shared, "PYTHONDONTWRITEBYTECODE": "1"},
            **variables,
        }
        with (self.folder / "mutants.log").open("ab") as log:
            return subprocess.run(
                [sys.executable, "-m", "pytest", "-p", "tools.mutants", "--timeout", "0", *words],
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=log,
                timeout=STUCK_S,
                check=False,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s)),
            ).returncode

    def fate(self, place: Place, tests: list[str], cpu_s: int) -> str:
        """`killed`, `endless` (the first tests do not end), `survived`, `unreached`, or `undecided`.

        A mutant is undecided if its tests used up `cpu_s`, and counts as alive.
        """
        from cosmic_ray.mutating import mutate_code
        from cosmic_ray.plugins import get_operator

        path = self.folder / place.file
        original = path.read_text()
        mutated = mutate_code(original, get_operator(place.operator)(), place.occurrence)
        if mutated is None:
            raise RuntimeError(f"{place} changes nothing")
        chosen = self.folder / "chosen.txt"
        # An older compilation of the file must not be taken for the mutant's.
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
            compiled.unlink()
        path.write_text(mutated)
        try:
            # No whole file is among the first: it may need more time than they have.
            first = [each for each in tests if "::" in each][:FIRST_TESTS]
            rest = [each for each in tests if each not in first]
            for part, most_s, late in ((first, FIRST_CPU_S, "endless"), (rest, cpu_s, "undecided")):
                if not part:
                    continue
                chosen.write_text("\n".join(part) + "\n")
                code = self.run(["-x", f"@{chosen}"], most_s)
                if code in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED):
                    # A mutant that fails at import leaves no tests: without it, they are found.
                    path.write_text(original)
                    if self.run(["--collect-only", "-q", f"@{chosen}"], most_s):
                        log = self.folder / "mutants.log"
                        raise RuntimeError(f"pytest found no tests for {place}: see {log}")
                if code:
                    return "killed" if code > 0 else late
            return "survived" if tests else "unreached"
        finally:
            path.write_text(original)


def shown(place: Place, before: str) -> str:
    """The line before and after the change of the file's text."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    after = mutate_code(before, get_operator(place.operator)(), place.occurrence)
    pairs = zip(before.splitlines(), after.splitlines(), strict=False)
    changed = [(old.strip(), new.strip()) for old, new in pairs if old != new]
    return "".join(f"\n    - {old}\n    + {new}" for old, new in changed[:2])


def main() -> int:
    """Prints each mutant that lives, and the share of the killed; 1 if that is below the goal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="how many places")
    parser.add_argument("--seed", type=int, default=15, help="of the choice of places")
    parser.add_argument("--workers", type=int, default=2, help="mutants at a time")
    parser.add_argument(
        "--cpu", type=int, default=CPU_S, help="CPU seconds of the tests of a mutant, at most"
    )
    parser.add_argument("--only", default="", help="places of files whose path contains this")
    parser.add_argument("--reuse", action="store_true", help="the map of the last run, which takes minutes")
    parser.add_argument(
        "--again", action="store_true", help="of these, the places that lived in the last run"
    )
    parser.add_argument("--resume", action="store_true", help="the places that a stopped run did not reach")
    given = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    reach = Reach(FOLDER / "reached")
    selected = [place for place in drawn(given.count, given.seed) if given.only in place.file]
    fates: dict[str, str] = json.loads(FATES.read_text()) if given.again or given.resume else {}
    chosen = [place for place in selected if fates.get(str(place)) in LIVING] if given.again else selected
    if given.resume:
        chosen = [place for place in selected if str(place) not in fates]
    with tempfile.TemporaryDirectory() as top:
        copies = SimpleQueue[Copy]()
        for number in range(given.workers):
            copies.put(Copy(shutil.copytree(ROOT, Path(top) / str(number), ignore=NOT_COPIED)))
        if not given.reuse or not reach.path.is_file():
            _map(copies, reach)

        # Before the first mutant, since whoever waits for the last edits files.
        tests = {place: reach.tests(place) for place in chosen}
        texts = {place.file: (ROOT / place.file).read_text() for place in selected}

        def tried(place: Place) -> tuple[Place, str]:
            copy = copies.get()
            try:
                return place, copy.fate(place, tests[place], given.cpu)
            finally:
                copies.put(copy)

        with ThreadPoolExecutor(given.workers) as pool:
            pending = [pool.submit(tried, place) for place in chosen]
            try:
                for done in as_completed(pending):
                    place, fate = done.result()
                    fates[str(place)] = fate
                    FATES.write_text(json.dumps(fates, indent=1) + "\n")
                    print(f"{fate:9} {place}", flush=True)
            finally:
                # An error ends the run at once.
                pool.shutdown(cancel_futures=True)
    selected = [place for place in selected if str(place) in fates]
    living = [place for place in selected if fates[str(place)] in LIVING]
    killed, ratio = len(selected) - len(living), 1 - len(living) / len(selected)
    report = [f"{fates[str(place)]} {place}{shown(place, texts[place.file])}" for place in living]
    report.append(f"{killed} of {len(selected)} killed: {100 * ratio:.1f} %, seed {given.seed}")
    (FOLDER / "survivors.txt").write_text("\n".join(report) + "\n")
    print(*report, sep="\n")
    return int(ratio < GOAL_RATIO)


def _map(copies: SimpleQueue[Copy], reach: Reach) -> None:
    """Runs the tests once without a mutant, and writes down which lines each ran."""
    copy = copies.get()
    reach.path.unlink(missing_ok=True)
    files = [str(path.relative_to(ROOT)) for path in pure_tests()]
    words = ["-n", "2", "--dist", "loadgroup", "--cov=ipa", "--cov-context=test", "--cov-report="]
    if copy.run([*words, *files], int(STUCK_S), COVERAGE_FILE=str(reach.path)):
        raise SystemExit(
            f"the tests fail without a mutant: {(copy.folder / 'mutants.log').read_text()[-2000:]}"
        )
    copies.put(copy)


if __name__ == "__main__":
    sys.exit(main())
