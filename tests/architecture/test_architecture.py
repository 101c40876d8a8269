"""The walls of the house: layers, sizes of rooms, and what an import may do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LIMIT_LINES = 400


def test_no_room_imports_one_above_it(root: Path) -> None:
    run = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout


def test_files_stay_small(root: Path) -> None:
    sizes = {path: len(path.read_text().splitlines()) for path in (root / "ipa").rglob("*.py")}
    assert sizes
    assert {str(path): lines for path, lines in sizes.items() if lines > LIMIT_LINES} == {}


@pytest.mark.parametrize("heavy", ["kubernetes", "sklearn", "gurobipy", "mlserver", "matplotlib"])
def test_importing_the_package_and_its_command_line_stays_light(heavy: str) -> None:
    probe = "import sys, ipa, ipa.model, ipa.settings; from ipa.cli.main import build_app; build_app()"
    run = subprocess.run(
        [sys.executable, "-c", f"{probe}; print({heavy!r} in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == "False"


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
