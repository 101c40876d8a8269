"""The scores of each release, by which one that predicts worse than the last is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.scorecard.figures import Score, worse

RELEASES = Path(__file__).with_name("releases.json")
# What two runs of one release differ by.
SLACK_RATIO = 0.25

Scores = Mapping[str, Mapping[str, Score]]


def recorded(path: Path = RELEASES) -> list[dict[str, Any]]:
    """The releases, oldest first: `version`, `processor`, `command` and `scores` (place, kind) of each."""
    releases: list[dict[str, Any]] = json.loads(path.read_text("utf-8")) if path.exists() else []
    for each in releases:
        each["scores"] = {
            place: {kind: Score(**numbers) for kind, numbers in kinds.items()}
            for place, kinds in each["scores"].items()
        }
    return releases


def worse_than_last(releases: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the newest predicts worse than the one before it, if both are of one processor and command."""
    alike = [it for it in releases if all(it[key] == releases[-1][key] for key in ("processor", "command"))]
    return worse(alike[-2]["scores"], alike[-1]["scores"], SLACK_RATIO) if len(alike) > 1 else []


def record(version: str, processor: str, command: str, scores: Scores, path: Path = RELEASES) -> list[str]:
    """Write the release's scores in place of its former ones; if it is worse than the last, only say how."""
    now = {"version": version, "processor": processor, "command": command, "scores": scores}
    own = ("version", "processor", "command")
    before = [it for it in recorded(path) if any(it[key] != now[key] for key in own)]
    if found := worse_than_last([*before, now]):
        return found
    path.write_text(json.dumps([*before, now], default=asdict, indent=1) + "\n", encoding="utf-8")
    return []
