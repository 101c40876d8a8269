"""What the service logs, one line a record, written by a thread of its own.

A pipe that nobody reads blocks whoever writes to it; here that is only this thread. Lines that do not fit
into its queue are dropped and counted.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum

# Some minutes of a busy service, about a megabyte.
MOST_WAITING = 5000
# How long an end waits for what still waits.
FLUSH_S = 1.0


class Format(StrEnum):
    """How a line looks."""

    TEXT = "text"
    JSON = "json"


class TextLines(logging.Formatter):
    """Time, level, logger and message on one line; control characters of a message stay visible in it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end. A traceback follows on lines that begin with a tab."""
        head, *rest = super().format(record).split("\n") if record.exc_info else [super().format(record)]
        return "\n\t".join(_visible(part) for part in (head, *rest))


class JsonLines(logging.Formatter):
    """One JSON object: `time` (UTC), `level`, `logger`, `message`, and `error` with the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        said = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            said["error"] = self.formatException(record.exc_info)
        # In ASCII, so that no reader takes a character for the end of a line.
        return json.dumps(said)


def _visible(text: str) -> str:
    """The text with everything that could begin a line or move a cursor written as an escape."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


class LineQueue(logging.Handler):
    """Takes records without ever waiting, and has them written to a file descriptor."""

    def __init__(self, descriptor: int, most_waiting: int = MOST_WAITING) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._lines: queue.Queue[bytes | None] = queue.Queue(most_waiting)
        self.dropped = 0
        # Not through sys.stderr: its lock, held by a write that hangs, would hang the end of the program.
        self._thread = threading.Thread(target=self._write, name="logs", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Put the record's line into the queue, or count it."""
        try:
            self._lines.put_nowait(f"{self.format(record)}\n".encode(errors="backslashreplace"))
        except queue.Full:
            self.dropped += 1
        except Exception:
            # A message that cannot be put together (wrong arguments) must not end what logged it.
            self.dropped += 1

    def close(self) -> None:
        """Write what waits, for a moment; then leave it."""
        try:
            self._lines.put(None, timeout=FLUSH_S)
        except queue.Full:
            pass
        else:
            self._thread.join(FLUSH_S)
        super().close()

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            while line:
                try:
                    line = line[os.write(self._descriptor, line) :]
                except OSError:
                    # Nobody listens any more; what follows may reach another.
                    self.dropped += 1
                    break


@contextmanager
def logged(form: Format, descriptor: int = 2) -> Iterator[LineQueue]:
    """Have everything of INFO and above logged in that form, only so; what is given counts what it drops."""
    handler = LineQueue(descriptor)
    handler.setFormatter(JsonLines() if form is Format.JSON else TextLines())
    root = logging.getLogger()
    others, level = root.handlers[:], root.level
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    # Each of its requests is one line.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        yield handler
    finally:
        root.handlers[:] = others
        root.setLevel(level)
        handler.close()
