"""The progress of long work on a terminal; silent in a pipe or a log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Receives what is being done, each time one more part is done.
Step = Callable[[str], None]


@contextmanager
def progress(words: str, total: int | None = None) -> Iterator[Step]:
    """Show a bar on standard error during the block; call the yielded step once for each of `total` parts.

    Without a total it shows a spinner. NO_COLOR takes the colours away.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal or console.is_dumb_terminal:
        yield lambda _: None
        return
    known = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) if total is not None else ()
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), *known)
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(words, total=total)

        def step(now: str) -> None:
            bar.update(task, advance=1, description=f"{words}: {now}" if now else words)

        yield step
