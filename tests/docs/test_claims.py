"""docs/claims.yaml: what makes each figure of the README and of docs/explanation."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

CLAIMS = yaml.safe_load(Path("docs/claims.yaml").read_text("utf-8"))
PAGES = {"README.md": Path("README.md")} | {
    f"explanation/{path.name}": path for path in sorted(Path("docs/explanation").glob("*.md"))
}
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
FIGURE = re.compile(r"\d\s?(%|ms\b|s\b|rps\b|cores?\b|[kMG]B\b|times\b|requests\b|of \d)")
TARGETS = set(re.findall(r"^([\w-]+):", Path("Makefile").read_text("utf-8"), re.MULTILINE))


def sections_with_figures(path: Path) -> list[str]:
    """The headings of the sections in which something is counted or measured, code left out."""
    parts = re.split(r"^#+ (.+)$", FENCED.sub("", path.read_text("utf-8")), flags=re.MULTILINE)
    return [heading for heading, body in zip(parts[1::2], parts[2::2], strict=True) if FIGURE.search(body)]


def test_every_section_with_figures_is_listed_and_no_other() -> None:
    found = {page: sections_with_figures(path) for page, path in PAGES.items()}
    assert {page: list(sections) for page, sections in CLAIMS.items()} == {
        page: sections for page, sections in found.items() if sections
    }


@pytest.mark.parametrize("command", sorted({by for page in CLAIMS.values() for by in page.values()}))
def test_the_command_is_there(command: str) -> None:
    word, *rest = command.split()
    if word == "make":
        assert rest[0] in TARGETS
        for name in (each.removeprefix("NAME=") for each in rest[1:]):
            assert (Path("experiments") / name / "experiment.yaml").exists()
    elif word == "python":
        spec = find_spec(rest[1])
        assert spec is not None
        assert not spec.submodule_search_locations or find_spec(f"{rest[1]}.__main__") is not None
    else:
        assert rest == []
        assert list(Path(word).rglob("test_*.py")) or Path(word).is_file()
