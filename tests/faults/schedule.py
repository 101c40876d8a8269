"""Fault schedules as data: what goes wrong, where and when.

    faults:
    - {time_s: 60, target: kube, verb: patch, effect: status, status: 409, times: 3}
    - {time_s: 60, target: prometheus, effect: unreachable, for_s: 120}
    - {time_s: 90, target: hand, effect: scale, stage: read, replicas: 7}

A fault lasts for `times` requests or for `for_s` seconds; one of them is given. `every_s` and `until_s`
repeat it. `load` reads a file and says everything that is wrong in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from tests.fakes.kube import FaultKind, Trouble

FOLDER = Path(__file__).parent

# Effects by target, and what each needs beside them.
EFFECTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "kube": {
        "status": ("status",),
        "lost-before": (),
        "lost-after": (),
        "truncated": (),
        "html": (),
        "wrong-kind": (),
        "hang": (),
        "stale": (),
        "delay": ("delay_s",),
    },
    "prometheus": dict.fromkeys(
        ("unreachable", "absent", "stale", "invalid", "negative", "nan", "infinite"), ()
    ),
    "hand": {
        "scale": ("stage", "replicas"),
        "batch": ("stage", "batch_size"),
        "label": (),
        "recreate": (),
        "reorder": (),
        "rename": ("stage",),
        "revert": (),
    },
    "pods": {trouble.name.lower().replace("_", "-"): ("variant",) for trouble in Trouble} | {"none": ()},
    "cluster": {"capacity": ("cores",), "stuck-status": (), "webhook": ("annotation",)},
    "load": {"rate": ("rate_rps",)},
    "store": {"failing": ()},
    "clock": {"jump": ("jump_s",)},
    "people": {"pause": (), "resume": (), "mode": ("mode",), "freeze": ("for_s",)},
    "service": {"restart": (), "standby": ()},
}
KINDS = {
    "status": FaultKind.STATUS,
    "lost-before": FaultKind.LOST_BEFORE,
    "lost-after": FaultKind.LOST_AFTER,
    "truncated": FaultKind.TRUNCATED,
    "html": FaultKind.HTML,
    "wrong-kind": FaultKind.WRONG_KIND,
    "hang": FaultKind.HANG,
}


@dataclass(frozen=True)
class Entry:
    """One fault. None and "" are not said."""

    time_s: float
    target: str
    effect: str
    verb: str = ""
    resource: str = ""
    times: int | None = None
    for_s: float | None = None
    every_s: float | None = None
    until_s: float | None = None
    dry_run: bool | None = None
    status: int | None = None
    delay_s: float | None = None
    stage: str = ""
    variant: str = ""
    replicas: int | None = None
    batch_size: int | None = None
    cores: float | None = None
    rate_rps: float | None = None
    jump_s: float | None = None
    mode: str = ""
    annotation: str = ""

    def moments_s(self) -> list[float]:
        """When it begins, each time."""
        if self.every_s is None or self.until_s is None:
            return [self.time_s]
        count = int((self.until_s - self.time_s) // self.every_s) + 1
        return [self.time_s + at * self.every_s for at in range(count)]


@dataclass(frozen=True)
class Schedule:
    """The faults of one file, and what it is about."""

    what: str
    entries: tuple[Entry, ...]

    @property
    def end_s(self) -> float:
        """When the last fault is over, as far as time ends it."""
        return max(entry.moments_s()[-1] + (entry.for_s or 0.0) for entry in self.entries)


def load(name: str) -> Schedule:
    """The schedule in tests/faults/<name>.yaml; ValueError lists everything that is wrong in it."""
    path = FOLDER / f"{name}.yaml"
    return parse(yaml.safe_load(path.read_text(encoding="utf-8")), path.name)


def parse(document: Any, path: str = "schedule") -> Schedule:
    """The schedule of a loaded document; ValueError lists everything that is wrong in it."""
    if not isinstance(document, dict) or not isinstance(document.get("faults"), list):
        raise ValueError(f"{path}: must be a mapping with `what` (text) and `faults` (a list)")
    problems = [f"unknown key {key!r}" for key in document if key not in ("what", "faults")]
    if not isinstance(document.get("what"), str):
        problems.append("`what` must say in words what the schedule is about")
    for at, raw in enumerate(document["faults"]):
        problems.extend(f"faults[{at}]: {problem}" for problem in _problems(raw))
    if problems:
        raise ValueError("\n".join(f"{path}: {problem}" for problem in problems))
    entries = tuple(Entry(**raw) for raw in document["faults"])
    return Schedule(document["what"], entries)


def _problems(raw: Any) -> list[str]:
    if not isinstance(raw, dict):
        return [f"must be a mapping, not {raw!r}"]
    known = {field.name: field.type for field in fields(Entry)}
    found = [f"unknown key {key!r}; known are {', '.join(known)}" for key in raw if key not in known]
    for key, value in raw.items():
        if key in known and not _fits(value, str(known[key])):
            found.append(f"{key} must be {str(known[key]).removesuffix(' | None')}, not {value!r}")
    found.extend(f"{key} is missing" for key in ("time_s", "target", "effect") if key not in raw)
    target, effect = raw.get("target"), raw.get("effect")
    if target not in EFFECTS:
        return [*found, f"target {target!r} is not one of {', '.join(EFFECTS)}"]
    if effect not in EFFECTS[target]:
        return [*found, f"{target} has no effect {effect!r}; it has {', '.join(EFFECTS[target])}"]
    found.extend(f"effect {effect} needs {key}" for key in EFFECTS[target][effect] if key not in raw)
    if target == "kube" and ("times" in raw) == ("for_s" in raw):
        found.append("give either times or for_s")
    if target == "prometheus" and "for_s" not in raw:
        found.append("give for_s")
    if ("every_s" in raw) != ("until_s" in raw):
        found.append("every_s and until_s go together")
    numbers = [key for key in ("time_s", "for_s", "every_s", "times", "delay_s") if key in raw]
    found.extend(
        f"{key} must be above 0, not {raw[key]!r}"
        for key in numbers
        if isinstance(raw[key], int | float) and raw[key] <= 0 and (key, raw[key]) != ("time_s", 0)
    )
    return found


def _fits(value: Any, kind: str) -> bool:
    wanted = kind.removesuffix(" | None")
    if wanted == "float":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if wanted == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, {"str": str, "bool": bool}[wanted])
