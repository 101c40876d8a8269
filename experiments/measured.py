"""The blocks of docs/reference/measured.md: a command puts its table between the marks that name it."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from ipa.adapters.processes import processor_name

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference" / "measured.md"


def inserted(page: str, command: str, text: str) -> str:
    """The page with the text between the marks of the command. ValueError without both of them."""
    begin, end = f"<!-- made by `{command}` -->", f"<!-- end of `{command}` -->"
    before, mark, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not mark or not closed:
        raise ValueError(f"the page has no {begin} with {end} after it: add both where the table belongs")
    return f"{before}{begin}\n{text.strip()}\n{end}{after}"


def put(command: str, text: str, page: Path = PAGE) -> None:
    """Write the text into the page, below a line with the command, this machine and today."""
    head = f"`{command}`; {os.cpu_count()} cores of {processor_name()}; {datetime.now(UTC):%Y-%m-%d}."
    page.write_text(inserted(page.read_text("utf-8"), command, f"{head}\n\n{text}"), encoding="utf-8")


def tell(command: str, text: str, page: Path = PAGE, *, write: bool) -> None:
    """Print the text, and write it into the page if asked."""
    print(text)
    if write:
        put(command, text, page)
    else:
        print(f"{page} is as it was; --write puts this there", file=sys.stderr)
