"""The walls of the house: layers, circles, sizes of files, names, and what an import may do."""

from __future__ import annotations

import ast
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.children import run_process
from tools.architecture import House, components, known_faults
from tools.budgets import BUDGETS, Budget, budgets, committed, faults

# One idea may be one file; above this a reader loses the beginning before the end.
LIMIT_LINES = 600


def test_no_room_imports_one_above_it(root: Path) -> None:
    run = run_process([Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=root)
    assert run.returncode == 0, run.stdout


def test_files_stay_small(root: Path) -> None:
    sizes = {path: len(path.read_text().splitlines()) for path in (root / "ipa").rglob("*.py")}
    assert sizes
    assert {str(path): lines for path, lines in sizes.items() if lines > LIMIT_LINES} == {}


def test_known_faults_only_go_away(root: Path) -> None:
    """known.json beside this file lists those that are left. `make architecture` shortens it."""
    assert House(root).faults().beyond(known_faults()) == []


def test_a_new_fault_of_each_kind_is_refused(tmp_path: Path) -> None:
    sources = {
        "ipa/__init__.py": "",
        "ipa/one.py": "from ipa import two\nclass Step: ...\n",
        "ipa/two.py": "class Step:\n    'How.'\nclass _Own:\n    'Who.'\ndef late():\n    import ipa.three\n",
        "ipa/three.py": "from ipa.one import Step\n# Seldon\nclass _Own: ...\n",
        "ipa/targets/__init__.py": "",
        "ipa/targets/seldon/__init__.py": "# Seldon\nimport ipa.one\n",
    }
    for name, text in sources.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    faults = House(tmp_path).faults()
    assert faults.circles == (("ipa.one", "ipa.three", "ipa.two"),)
    assert (faults.repeated_classes, faults.files_on_seldon) == ({"Step": 2}, 1)
    assert faults.question_docstrings == {"(top)": 1}
    none = replace(faults, circles=(), repeated_classes={}, files_on_seldon=0, question_docstrings={})
    assert len(faults.beyond(none)) == 4
    assert faults.beyond(faults) == []


def test_components_are_the_largest_sets_that_reach_one_another() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": {"d"}, "f": {"a"}}
    assert sorted(sorted(each) for each in components(graph)) == [["a", "b", "c"], ["d", "e"], ["f"]]


def test_the_files_that_recipes_name_are_there(root: Path) -> None:
    recipes = (root / "CONTRIBUTING.md").read_text().partition("## Recipes")[2]
    named = set(re.findall(r"`((?:ipa|tests|tools)/[^`]+)`", recipes))
    assert len(named) > 40
    # NAME stands for the file to add.
    lacking = [name for name in named if "NAME" not in name and not (root / name).exists()]
    assert lacking == []
    headings = {
        *("policy", "forecaster", "solver", "rule", "metric", "verb", "doctor check", "route"),
        *("view to the page", "target", "resource", "key to a file"),
    }
    assert {found.group(1) for found in re.finditer(r"### Add an? (.+)", recipes)} == headings


def test_importing_the_package_and_its_command_line_stays_light() -> None:
    probe = "import sys, ipa, ipa.model, ipa.settings; from ipa.cli.main import build_app; build_app()"
    heavy = {"kubernetes", "sklearn", "gurobipy", "mlserver", "matplotlib"}
    run = run_process(
        [sys.executable, "-c", f"{probe}; print(sorted({heavy!r} & set(sys.modules)))"], check=True
    )
    assert run.stdout.strip() == "[]"


def test_no_file_names_a_registry(root: Path) -> None:
    schema = '"$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json"'
    texts = {path.name: path.read_text().replace(schema, "") for path in (root / "requirements").iterdir()}
    assert {"all.txt", "service.cdx.json"} <= set(texts)
    assert [name for name, text in texts.items() if "://" in text] == []


@pytest.mark.xdist_group("groups")
def test_a_group_of_tests_stays_with_one_worker(request: pytest.FixtureRequest) -> None:
    """pytest-xdist knows a group by the end of a test's id: a pytest that lets no id change loses it."""
    if not request.config.getoption("loadgroup", False):
        pytest.skip("tests are not shared among workers by group")
    assert request.node.nodeid.endswith("@groups")


def test_the_way_from_a_rate_to_a_patch_is_as_the_page_says(root: Path) -> None:
    page = (root / "docs" / "explanation" / "architecture.md").read_text()
    way = page.split("## From a rate to a patch")[1].split("\n## ")[0]
    steps = re.findall(r"^\d+\. `(ipa/[\w/]+\.py)` `([\w.]+)`", way, re.M)
    assert len(steps) > 20
    for path, name in steps:
        scope: list[ast.stmt] = ast.parse((root / path).read_text()).body
        for part in name.split("."):
            named = [node for node in scope if getattr(node, "name", None) == part]
            assert named, f"{path} has no {name}"
            scope = named[0].body
        nodes = [node for each in scope for node in ast.walk(each)]
        keys = [node.value for node in nodes if isinstance(node, ast.keyword) and node.arg == "key"]
        assert not [node for node in nodes if isinstance(node, ast.Lambda) and node not in keys], name
    assert len({path.split("/")[1] for path, _ in steps}) <= 12


def test_each_room_keeps_its_budget_and_no_budget_rises(root: Path) -> None:
    """`make architecture` lowers the budgets to what there is."""
    now = budgets((root / BUDGETS).read_text("utf-8"))
    assert faults(now, [], root) == []
    for before in committed(root):
        assert faults(now, before, root) == []


def test_each_file_of_the_package_counts_in_one_budget(root: Path) -> None:
    rooms = [each for each in budgets((root / BUDGETS).read_text("utf-8")) if each.is_room]
    counted = [path for room in rooms for path in room.paths(root) if path.suffix == ".py"]
    assert sorted(counted) == sorted((root / "ipa").rglob("*.py"))


def test_a_room_above_its_budget_and_a_budget_that_rose_or_went_are_refused(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("one two\nthree\n")
    (tmp_path / "room.py").write_text("one two\nthree\n")
    now = [Budget("docs", ("*.md",), "words", 2, 1), Budget("room", ("*.py",), "lines", 2, 1)]
    assert [fault.split(";")[0] for fault in faults(now, now, tmp_path)] == ["docs has 3 words"]
    before = [replace(now[1], budget=1), replace(now[1], name="hall")]
    assert [fault.split(":")[0] for fault in faults(now[1:], before, tmp_path)] == [
        "the budget of room, without what it owes, was 1 and is 2",
        "the budget of hall, without what it owes, was 2 and is gone",
    ]
    there, here = (Budget(name, (f"ipa/{name}.py",), "lines", 5, 1) for name in ("there", "here"))
    moved = [replace(there, budget=7), replace(here, budget=3)]
    assert faults(moved, [there, here], tmp_path) == []
    assert faults([moved[0], here], [there, here], tmp_path) != []
    lent = replace(now[1], budget=3, owed=1)
    assert [faults([replace(lent, owed=owed)], [now[1]], tmp_path) == [] for owed in (0, 1)] == [False, True]
    # What was lent is lent once.
    assert faults([replace(lent, budget=4)], [lent], tmp_path) != []
