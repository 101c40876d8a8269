"""The how-to of the API: its requests are sent, one after the other, and answered as it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.fakes.services import ApiClient, FakeWorld

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "use-the-api.md"
BLOCK = re.compile(r"^```http\n(.*?)^```", re.MULTILINE | re.DOTALL)
FROM_ANSWER = {"ETAG": "etag", "LOCATION": "location"}


def test_every_request_is_answered_as_the_guide_says() -> None:
    # While the load is low, so that the guide's campaign changes something that can be taken back.
    world, sent = FakeWorld().play(12), 0
    api = ApiClient(world.services())
    known = {**dict.fromkeys(FROM_ANSWER, ""), "DECISION": world.log[-1].decision_id}
    for block in BLOCK.findall(GUIDE.read_text()):
        for request in block.split("\n\n"):
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
    assert sent > 10


def test_the_guide_names_every_group_of_addresses(root: Path) -> None:
    text = GUIDE.read_text()
    for tag in ("plans", "pipelines", "fleet"):
        if f"/{tag}" not in text:
            pytest.fail(f"nothing about {tag}")
