"""`ipa events` and `ipa audit`, over an application in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ipa.cli.layout import date_time
from ipa.cli.watching import AGAIN_S, followed, parsed
from ipa.clients.http import HttpClient
from ipa.model.errors import UnavailableError
from tests.fakes.clock import VirtualClock
from tests.fakes.commands import Ipa
from tests.fakes.services import FakeWorld, InProcess

# The ticks that the world has seen.
PLAYED = 4


def test_events_are_a_line_each(ipa: Ipa, world: FakeWorld) -> None:
    ipa("pause", "ocr", "--by", "kim", "--reason", "release\x1b[2J")
    lines = ipa("events", "ocr", "--no-follow").out.splitlines()
    assert len(lines) == 5
    assert lines[0].startswith(
        f"1 {date_time(world.recorded[0].at)} ocr decision {world.recorded[0].reason.value} by ipa: "
    )
    assert lines[4].endswith("ocr control pause by kim: release\N{REPLACEMENT CHARACTER}[2J")
    entry = ipa("events", "--no-follow", "--since", "4", "-o", "json").out
    assert json.loads(entry)["what"] == "pause"


def test_it_takes_a_stream_that_ends_up_again(world: FakeWorld) -> None:
    clock = VirtualClock()
    with HttpClient("http://127.0.0.1:8080", InProcess(world.services())) as service:
        following = followed(service, "ocr", 0, clock, follow=True)
        ids = [next(following).id for _ in range(4)]
        world.play(2)
        ids += [next(following).id for _ in range(2)]
    assert ids == ["1", "2", "3", "4", "5", "6"]
    assert clock.monotonic_s() == AGAIN_S


def test_what_does_not_answer_from_the_beginning_is_an_error() -> None:
    with (
        HttpClient("http://127.0.0.1:9") as service,
        pytest.raises(UnavailableError, match="does not answer"),
    ):
        next(followed(service, None, None, VirtualClock(), follow=True))


def test_words_of_the_stream_itself() -> None:
    store = ["event: store", 'data: {"detail":"locked"}', ""]
    reset = ["id: 7", "event: reset", 'data: {"detail":"gone"}', ""]
    events = [(event.id, event.words) for event in parsed([": nothing new", "", *store, *reset])]
    assert events == [("", "store: locked"), ("7", "reset: gone")]


def test_the_record_is_printed_and_checked(ipa: Ipa, tmp_path: Path) -> None:
    out = ipa("audit").out
    assert len(out.splitlines()) == 4
    export = tmp_path / "ocr.jsonl"
    export.write_text(out)
    verdict = ipa("audit", "--check", str(export)).out
    assert verdict.startswith("4 entries of ocr, none of them changed; head 4:")
    head = json.loads(ipa("history", "ocr", "--verify", "-o", "json").out)["head"]
    ipa("audit", "--check", str(export), "--anchor", f"ocr={head}")
    export.write_text("".join(out.splitlines(keepends=True)[:-1]))
    error = ipa("audit", "--check", str(export), "--anchor", f"ocr={head}", code=1).err
    assert "entry 4 was removed from the end" in error
    export.write_text(out.replace("ocr-0002", "ocr-0009"))
    assert "entry 2 was changed" in ipa("audit", "--check", str(export), code=1).err
    export.write_text("nonsense\n")
    ipa("audit", "--check", str(export), code=1)
    assert ipa("audit", "--after", "3").out.splitlines() == out.splitlines()[3:]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["audit", "--check", "/nothing/here"], 65, "cannot be read"),
        (["audit", "--check", "/dev/null", "--anchor", "ocr=1:x"], 64, "is not a head"),
        (["audit", "--check", "/dev/null", "--anchor", f"1:{'a' * 64}"], 64, "names no pipeline"),
        (["history", "ocr", "--verify", "--anchor", "x"], 64, "is not a head"),
        (["history", "ocr", "--verify", "--anchor", f"99:{'a' * 64}"], 1, "removed from the end"),
        (["events", "nope", "--no-follow"], 1, "no pipeline 'nope'"),
    ],
)
def test_what_cannot_be_done_is_said(ipa: Ipa, words: list[str], code: int, message: str) -> None:
    assert message in ipa(*words, code=code).err
