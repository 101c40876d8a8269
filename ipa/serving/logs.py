"""The service's log: one line per record, written by a thread of its own.

A pipe without a reader blocks its writer; here only this thread blocks. Lines that do not fit into its queue
are dropped and counted.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum

# Some minutes of a busy service, about a megabyte.
MOST_WAITING = 5000
# How long `close` waits for the queue.
FLUSH_S = 1.0

# Turns the time of a record into the one that the log shows.
ShownAt = Callable[[datetime], datetime]
TIME = "%Y-%m-%d %H:%M:%S"


class Format(StrEnum):
    """The format of a line."""

    TEXT = "text"
    JSON = "json"


class TextLines(logging.Formatter):
    """Lines of time, level, logger and message; control characters in a message are escaped."""

    def __init__(self, shown_at: ShownAt = lambda at: at) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")
        self._shown_at = shown_at

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """The local time of the record to the second, as in all output for people."""
        return f"{self._shown_at(datetime.fromtimestamp(record.created, UTC)).astimezone():{TIME}}"

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its line break. A traceback follows on lines that start with a tab."""
        head, *rest = super().format(record).split("\n") if record.exc_info else [super().format(record)]
        # Without characters that could start a line or move a cursor.
        lines = ("".join(it if it.isprintable() else repr(it)[1:-1] for it in line) for line in (head, *rest))
        return "\n\t".join(lines)


class JsonLines(logging.Formatter):
    """Lines of JSON objects: `time` (UTC), `level`, `logger`, `message`, and `error` with the traceback.

    A record's `fields` become further keys.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its line break."""
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        # In ASCII, so that no character counts as the end of a line.
        return json.dumps(entry)


class LineQueue(logging.Handler):
    """A log handler that never blocks: a thread writes the lines to a file descriptor."""

    def __init__(self, descriptor: int, most_waiting: int = MOST_WAITING) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._lines: queue.Queue[bytes | None] = queue.Queue(most_waiting)
        self.dropped = 0
        # Not through sys.stderr: a write that hangs holds its lock, and the program's exit would hang too.
        self._thread = threading.Thread(target=self._write, name="logs", daemon=True)
        self._thread.start()

    @property
    def is_json(self) -> bool:
        """True if the lines are JSON, so that nothing else may be printed between them."""
        return isinstance(self.formatter, JsonLines)

    def emit(self, record: logging.LogRecord) -> None:
        """Enqueue the record's line, or count it as dropped."""
        try:
            self._lines.put_nowait(f"{self.format(record)}\n".encode(errors="backslashreplace"))
        except Exception:
            # Besides a full queue: a message with wrong arguments must not raise in the code that logs it.
            self.dropped += 1

    def close(self) -> None:
        """Write the queue for at most `FLUSH_S`, and stop."""
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
                    # The reader is gone; a later line may reach another.
                    self.dropped += 1
                    break


@contextmanager
def logged(form: Format, descriptor: int = 2, shown_at: ShownAt = lambda at: at) -> Iterator[LineQueue]:
    """Log records of INFO and above only in this format, while the block runs.

    Yields the handler, which counts dropped lines; `shown_at` maps real times to a simulated clock's, for
    text.
    """
    handler = LineQueue(descriptor)
    handler.setFormatter(JsonLines() if form is Format.JSON else TextLines(shown_at))
    root = logging.getLogger()
    others, level = root.handlers[:], root.level
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    # httpx logs each request.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.captureWarnings(True)
    try:
        yield handler
    finally:
        logging.captureWarnings(False)
        root.handlers[:] = others
        root.setLevel(level)
        handler.close()
