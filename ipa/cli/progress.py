"""How far long work is, for who waits at a terminal; in a pipe or a log it says nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Says that one more is done, or in words what is being done now.
Step = Callable[[str], None]


@contextmanager
def progress(words: str, total: int | None = None) -> Iterator[Step]:
    """A bar on standard error while the block runs; call what it gives once for each of `total` parts.

    Without a total it only shows that something goes on. NO_COLOR takes its colours away.
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
