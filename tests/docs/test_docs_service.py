"""Pages of how-to that need a service or a cluster: each line is run against a world, sent, or parsed.

test_install_page runs the one on installing.
"""

from __future__ import annotations

import re
import shlex
from datetime import timedelta
from pathlib import Path
from textwrap import dedent

import httpx
import pytest
import typer

from ipa.cli.main import build_app, run
from ipa.clients.http import HttpClient
from ipa.model.decision import ReasonCode
from ipa.settings import Settings
from tests.fakes.services import ApiClient, FakeWorld, InProcess
from tests.fakes.viewed import again, taken

ROOT = Path(__file__).resolve().parents[2]
GUIDES = (
    "hand-over",
    "recover-from-holds",
    "gitops",
    "connect-prometheus",
    "monitor",
    "alerts",
    "secure",
    "follow-events",
    "use-the-page",
    "take-a-decision-again",
    "measure-accuracy",
)
BASH = re.compile(r"^ *```bash\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
# The world has another pipeline than the guides, and other revisions.
NAMES = {
    "video": "ocr",
    "crop": "detect",
    "yolov5n": "v6-320",
    "video-57-9b15ae64": "ocr-27-sim0",
    "4181": "5",
}
# Where a difference is what one looks for.
DIFFERS = "--policy"
# What starts something, or needs a cluster: its words are checked, and no more.
ONLY_PARSED = ("demo", "events", "serve", "watch", "doctor")


def lines(guide: str) -> list[str]:
    text = (ROOT / "docs" / "how-to" / f"{guide}.md").read_text()
    return [line.strip() for block in BASH.findall(text) for line in block.splitlines() if line.strip()]


def test_every_guide_has_something_to_run() -> None:
    assert all(lines(guide) for guide in GUIDES)


@pytest.mark.parametrize("guide", GUIDES)
def test_its_commands_are_right(
    guide: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    world = FakeWorld().play(30)
    services = world.services()
    if guide == "take-a-decision-again":
        world = taken()
        del world.recorded[:-12]
        services = again(world)
    monkeypatch.setattr("ipa.clients.http.client_at", lambda at, **_: HttpClient(at, InProcess(services)))
    for line in lines(guide):
        words = shlex.split(line.removeprefix("export "))
        if words[0] == "ipa" and words[1] in ONLY_PARSED:
            parsed(words[1:])
        elif words[0] == "ipa":
            world.clock.wait(timedelta(seconds=1).total_seconds())
            code = run([NAMES.get(word, word) for word in words[1:]])
            assert code == (2 if DIFFERS in words else 0), f"{line}\n{capfd.readouterr()}"
        elif words[0] == "kubectl":
            assert [
                w for w in words if w.startswith("deploy/") and is_path(w) and not (ROOT / w).exists()
            ] == []
        elif words[0] == "curl":
            assert InProcess(services).handle_request(httpx.Request("GET", words[-1])).is_success
        elif words[0] == "make":
            assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text()
        elif "=" in words[0]:
            name, _, value = words[0].partition("=")
            assert Settings.from_env({name: value})
        else:
            assert words[0] == "git", line


IN_LINE = re.compile(r"(?:^|-- |&& |^[A-Z_]+=\S+ )(ipa (?:'[^']*'|\"[^\"]*\"|[^|&>;#])*)")
# Names plug-ins that its reader has.
READERS_OWN = "write-a-policy"
HOW_TOS = sorted(each.stem for each in (ROOT / "docs" / "how-to").glob("*.md"))


@pytest.mark.parametrize("guide", [each for each in HOW_TOS if each not in (*GUIDES, READERS_OWN)])
def test_its_commands_are_taken_by_the_command_line(guide: str) -> None:
    """Those of pages that need a machine, a cluster or minutes: their verbs and options are there."""
    for line in lines(guide):
        for command in IN_LINE.findall(line):
            words = shlex.split(re.sub(r"\\\?[%$]\(?[^ \"]*|\$\([^)]*\)", "x", command))
            if "..." not in words and words[1:]:
                parsed(words[1:])


def is_path(word: str) -> bool:
    """True if it is one of deploy/ here, not a Deployment."""
    return word.split("/")[1] in {each.name for each in (ROOT / "deploy").iterdir()}


def parsed(words: list[str]) -> None:
    """Raises where the command does not take these words."""
    group = typer.main.get_command(build_app())
    context = group.make_context("ipa", ["--help"], resilient_parsing=True)
    name, command, rest = group.resolve_command(context, words)  # type: ignore[attr-defined]
    assert command is not None
    command.make_context(name, rest)


def test_recovery_names_every_hold_with_what_to_do() -> None:
    text = (ROOT / "docs" / "how-to" / "recover-from-holds.md").read_text()
    rows = {
        cells[1].strip("` "): cells[2:4]
        for cells in (line.split("|") for line in text.splitlines() if line.startswith("| `hold."))
    }
    assert set(rows) == {code.value for code in ReasonCode if code.value.startswith("hold.")}
    assert all(cell.strip() for cells in rows.values() for cell in cells)


GUIDE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "use-the-api.md"
BLOCK = re.compile(r"^ *```http\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
FROM_ANSWER = {"ETAG": "etag", "LOCATION": "location"}


@pytest.mark.parametrize(("guide", "least"), [(GUIDE, 11), (GUIDE.with_name("measure-accuracy.md"), 1)])
def test_every_request_is_answered_as_the_guide_says(guide: Path, least: int) -> None:
    # While the load is low, so that the guide's campaign changes something that can be taken back.
    world, sent = FakeWorld().play(12), 0
    api = ApiClient(world.services())
    known = {**dict.fromkeys(FROM_ANSWER, ""), "DECISION": world.recorded[-1].decision_id}
    for block in BLOCK.findall(guide.read_text()):
        for request in dedent(block).split("\n\n"):
            head, *rest = request.strip().splitlines()
            for word, value in known.items():
                head, rest = head.replace(word, value), [line.replace(word, value) for line in rest]
            method, address = head.split()
            headers = dict(line.split(": ", 1) for line in rest if re.match(r"[A-Z][A-Za-z-]+: ", line))
            body = "\n".join(line for line in rest if line.startswith(("{", " ", "}")))
            (wanted,) = (line.removeprefix("→ ") for line in rest if line.startswith("→ "))
            headers.setdefault("Content-Type", "application/json")
            answer = api(method, address, content=body or None, headers=headers)
            assert str(answer.status_code) == wanted.split()[0], f"{head}\n{answer.text}"
            known |= {word: answer.headers.get(name, known[word]) for word, name in FROM_ANSWER.items()}
            sent += 1
    assert sent >= least


def test_the_guide_names_every_group_of_addresses(root: Path) -> None:
    text = GUIDE.read_text()
    for tag in ("plans", "pipelines", "fleet"):
        if f"/{tag}" not in text:
            pytest.fail(f"nothing about {tag}")
