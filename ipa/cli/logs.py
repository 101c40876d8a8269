"""The service's log: a line an event, whatever its text holds."""

from __future__ import annotations

import logging
import re
from copy import copy

FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"
# What ends a line, moves a terminal's cursor, or turns the direction of what follows.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class OneLine(logging.Formatter):
    """Writes what people sent as they could not have written a line of the log: control characters escaped.

    A traceback is several lines, each of them indented.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        # Another handler may have kept the traceback in its own form with the record.
        own = copy(record)
        own.exc_text = None
        return super().format(own)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line."""
        return _UNSAFE.sub(_escaped, super().formatMessage(record))

    def formatException(self, ei: object) -> str:  # noqa: N802 - logging's name
        """The traceback, which may quote what was sent."""
        lines = super().formatException(ei).split("\n")  # type: ignore[arg-type]
        return "\n".join(f"    {_UNSAFE.sub(_escaped, line)}" for line in lines)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


def start_logging() -> None:
    """Log to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine(FORMAT))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
