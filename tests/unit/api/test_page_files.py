"""The page's files among themselves and beside what the service says."""

from __future__ import annotations

import re
from pathlib import Path

from ipa.api.app import PAGE
from ipa.model.decision import UNHEALTHY, ReasonCode
from tests.fakes.browsing import VIEWS


def test_every_hold_and_all_that_is_wrong_has_its_remedy() -> None:
    _, _, text = (PAGE / "reasons.js").read_text().partition("REMEDIES")
    explained = set(re.findall(r'^  "((?:hold|apply)\.\w+)":', text, re.MULTILINE))
    holds = {code.value for code in ReasonCode if code.value.startswith("hold.")}
    assert explained == holds | {code.value for code in UNHEALTHY}


def test_every_view_is_in_the_navigation_and_tried() -> None:
    loaded = re.findall(r'import\("\./views/([\w-]+)\.js"\)', (PAGE / "app.js").read_text())
    assert loaded == list(VIEWS)
    for view in loaded:
        text = (PAGE / "views" / f"{view}.js").read_text()
        assert "export const title = " in text and "export async function open(" in text


def test_what_is_imported_is_there_and_all_of_it_is_used() -> None:
    scripts = sorted(PAGE.rglob("*.js"))
    imported: set[Path] = set()
    for script in scripts:
        for name in re.findall(r'(?:from |import\()"(\.{1,2}/[^"]+)"', script.read_text()):
            target = (script.parent / name).resolve()
            assert target.exists(), f"{script.name} imports {name}"
            imported.add(target)
    # Those that HTML names.
    assert {script.name for script in scripts} - {path.name for path in imported} == {"app.js"}


def test_nothing_is_asked_of_the_service_but_through_ask() -> None:
    for script in PAGE.rglob("*.js"):
        if script.name != "auth.js":
            assert not re.search(r"\bfetch\(|XMLHttpRequest|EventSource", script.read_text()), script.name


def test_no_file_is_long() -> None:
    for file in (*PAGE.rglob("*.js"), *PAGE.glob("*.css")):
        assert len(file.read_text().splitlines()) < 400, file.name
