"""The log: one line a record whatever is in it, and nobody waits for who reads it."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipa.serving.logs import Format, JsonLines, LineQueue, TextLines, logged

HOSTILE = "paused\r\n2026-01-01 INFO ipa.control all is well\x1b[2K\x00\u2028\x85"


def record(message: str, *values: object, error: bool = False) -> logging.LogRecord:
    exception = None
    if error:
        try:
            raise ValueError(HOSTILE)
        except ValueError:
            exception = sys.exc_info()
    return logging.LogRecord("ipa.control", logging.WARNING, "loop.py", 1, message, values, exception)


@given(st.text())
def test_a_message_is_one_line_of_text(text: str) -> None:
    line = TextLines().format(record("said %s", text))
    assert line.isprintable()
    assert len(line.splitlines()) == 1


@given(st.text())
def test_a_message_is_one_line_of_json_and_comes_back_as_it_was(text: str) -> None:
    line = JsonLines().format(record("said %s", text))
    assert line.isascii() and line.isprintable()
    assert json.loads(line)["message"] == f"said {text}"


def test_lines_say_when_how_bad_where_and_what() -> None:
    line = json.loads(JsonLines().format(record("took %d s", 3)))
    assert (line["level"], line["logger"], line["message"]) == ("warning", "ipa.control", "took 3 s")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line["time"])
    assert TextLines().format(record("took %d s", 3)).endswith("WARNING ipa.control took 3 s")


def test_no_line_of_a_traceback_looks_like_one_of_the_log() -> None:
    head, *rest = TextLines().format(record("failed", error=True)).splitlines()
    assert head.endswith("WARNING ipa.control failed")
    assert rest and all(line.startswith("\t") for line in rest)
    logged_line = json.loads(JsonLines().format(record("failed", error=True)))
    assert HOSTILE in logged_line["error"]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_what_was_logged_is_written_by_the_end(pipe: tuple[int, int]) -> None:
    handler = LineQueue(pipe[1])
    handler.setFormatter(TextLines())
    for index in range(50):
        handler.emit(record("line %d", index))
    handler.close()
    lines = os.read(pipe[0], 1 << 16).decode().splitlines()
    assert [line.rsplit(" ", 1)[1] for line in lines] == [str(index) for index in range(50)]
    assert handler.dropped == 0


def test_a_message_that_cannot_be_put_together_is_counted(pipe: tuple[int, int]) -> None:
    handler = LineQueue(pipe[1])
    handler.setFormatter(JsonLines())
    handler.emit(record("%d and %d", 1))
    handler.emit(record("well"))
    handler.close()
    assert handler.dropped == 1
    assert json.loads(os.read(pipe[0], 1 << 16))["message"] == "well"


def test_nobody_who_reads_is_no_error() -> None:
    reads, writes = os.pipe()
    os.close(reads)
    handler = LineQueue(writes)
    handler.setFormatter(TextLines())
    handler.emit(record("lost"))
    handler.close()
    os.close(writes)
    assert handler.dropped == 1


def test_everything_goes_there_as_long_as_it_is_to(pipe: tuple[int, int]) -> None:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    with logged(Format.JSON, pipe[1]) as handler:
        logging.getLogger("ipa.control").info("well")
        assert root.handlers == [handler]
    assert (root.handlers, root.level) == before
    assert json.loads(os.read(pipe[0], 1 << 16))["logger"] == "ipa.control"
