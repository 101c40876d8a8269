"""The forms in which every verb prints its answer: for people, for programs, or as Markdown; and progress."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import typer

from ipa.control.canonical import plain

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

# Tables are as wide as they need, also in a pipe; a row of Markdown is one line.
WIDTH, MARKDOWN_WIDTH = 160, 2000
# Seconds between two lines of progress if there is no terminal.
LINE_S = 60.0
# Print a line on standard error.
say = partial(typer.echo, err=True)


class Step(Protocol):
    """A callback that receives the current work, and the number of parts done since the last call."""

    def __call__(self, now: str, parts: int = 1, /) -> None: ...


class Output(StrEnum):
    """The form of an answer. JSON and YAML have all of it, text and Markdown a summary for people."""

    TEXT = "text"
    JSON = "json"
    YAML = "yaml"
    MD = "md"


OUTPUT = typer.Option(Output.TEXT, "--output", "-o", help="form of the answer")


def print_values(output: Output, values: Any) -> bool:
    """Print the values for programs and return True; return False if the form is one for people."""
    if output is Output.JSON:
        typer.echo(json_text(values, indent=2))
    elif output is Output.YAML:
        import yaml

        typer.echo(yaml.safe_dump(plain(values), sort_keys=False, allow_unicode=True, width=WIDTH), nl=False)
    return output in (Output.JSON, Output.YAML)


def json_text(values: Any, indent: int | None = None) -> str:
    """The values as JSON; NaN and infinity, which JSON lacks, are null."""
    return json.dumps(plain(values), indent=indent, ensure_ascii=False, allow_nan=False)


def show(output: Output, values: Any, *lines: RenderableType | Iterable[RenderableType]) -> None:
    """Print the values for programs, or for people the lines and tables, given singly or in groups."""
    if print_values(output, values):
        return
    from rich.text import Text

    console = printer(output)
    for each in lines:
        group = each if isinstance(each, list | Iterator) else [each]
        for line in group:
            # A plain text of a verb has no markup.
            shown = Text(line.rstrip()) if isinstance(line, str) else line
            for part in markdown(shown, console) if output is Output.MD else (shown,):
                console.print(part, markup=False)


def printer(output: Output = Output.TEXT) -> Console:
    """The console for people. Colours follow NO_COLOR and the terminal, and never carry meaning alone."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    if output is Output.MD:
        return Console(highlight=False, soft_wrap=True, no_color=True, width=MARKDOWN_WIDTH)
    return console if console.is_terminal else Console(highlight=False, soft_wrap=True, width=WIDTH)


def markdown(shown: Any, console: Console) -> Iterator[RenderableType]:
    """Yield the parts of a group, each with an empty line after it, and tables as text in Markdown."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts = shown.renderables if isinstance(shown, Group) else [shown]
    for part in parts:
        if isinstance(part, Table):
            part.box, part.padding, part.pad_edge, part.show_header = box.MARKDOWN, (0, 1), True, True
            # The edges of the box are empty lines.
            rows = ("".join(segment.text for segment in row).rstrip() for row in console.render_lines(part))
            yield Text("\n".join(rows).strip("\n"))
        else:
            yield part
        yield ""


def work_left(done: int, total: int, took_s: float, now: datetime) -> str:
    """The parts done, the time left at their pace, and the time of day of the end."""
    if not done:
        return f"0 of {total}"
    left_s = took_s / done * max(total - done, 0)
    left = f"{left_s / 60:.0f} min" if left_s >= 90 else f"{left_s:.0f} s"
    until = (now + timedelta(seconds=left_s)).astimezone()
    return f"{done} of {total}, about {left} left, until {until:%H:%M:%S}"


@contextmanager
def progress(words: str, total: int | None = None) -> Iterator[Step]:
    """Show the work left of `total` parts during the block; call the yielded step as parts are done.

    On a terminal it is a bar, elsewhere a line each LINE_S, also while no part ends; both on
    standard error. NO_COLOR removes the colours.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    console = Console(stderr=True)
    is_live = console.is_terminal and not console.is_dumb_terminal
    what, rest = (TextColumn(each, markup=False) for each in ("{task.description}", "{task.fields[left]}"))
    columns = (SpinnerColumn(), what, BarColumn(), rest)
    done, shown, started_s = 0, words, time.monotonic()
    ended = threading.Event()

    def left() -> str:
        return work_left(done, total, time.monotonic() - started_s, datetime.now(UTC)) if total else ""

    def tell() -> None:
        while not ended.wait(LINE_S):
            typer.echo(f"{shown}; {left()}", err=True)

    if total and not is_live:
        threading.Thread(target=tell, daemon=True).start()
    with Progress(*columns, console=console, transient=True, disable=not is_live) as bar:
        task = bar.add_task(words, total=total, left="")

        def step(now: str, parts: int = 1) -> None:
            nonlocal done, shown
            done, shown = done + parts, f"{words}: {now}" if now else words
            bar.update(task, advance=parts, description=shown, left=left())

        try:
            yield step
        finally:
            ended.set()
