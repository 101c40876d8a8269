"""Every lock of requirements/ against known advisories; 1 where one is found that nobody wrote a reason for.

pip-audit asks the service of the package index, where that is reachable. Packages that it does not answer
for are judged by requirements/advisories.json: a dated copy of the PyPA advisory database, with the packages
of the locks. `--copy FOLDER` makes it anew from a clone of that database. Its `accepted` holds the reason to
live with an advisory, by its id.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "requirements"
COPY = FOLDER / "advisories.json"
# Names no versions that are installed.
NO_LOCK = "overrides.txt"
PIN = re.compile(r"^([A-Za-z0-9][\w.-]*)==([^\s;]+)", re.MULTILINE)
# Seconds for each answer of the service, and for all of them.
ANSWER_S, ALL_S = 5, 600
Package = tuple[str, str]


@dataclass(frozen=True, order=True)
class Finding:
    """An advisory that a locked package is affected by."""

    name: str
    version: str
    advisory: str
    aliases: tuple[str, ...] = ()
    fixed: str = ""
    summary: str = ""

    @property
    def ids(self) -> set[str]:
        """Its id, and those that others gave it."""
        return {self.advisory, *self.aliases}

    def __str__(self) -> str:
        ids = ", ".join((self.advisory, *self.aliases))
        return f"{self.name} {self.version}: {ids}; fixed in {self.fixed or 'no version'}. {self.summary}"


def locks(folder: Path = FOLDER) -> list[Path]:
    """The locks."""
    return sorted(path for path in folder.glob("*.txt") if path.name != NO_LOCK)


def packages(paths: Iterable[Path]) -> set[Package]:
    """The packages of these locks, each with its version."""
    texts = (path.read_text(encoding="utf-8") for path in paths)
    return {(canonicalize_name(name), version) for text in texts for name, version in PIN.findall(text)}


def copied(copy: Mapping[str, Any], among: set[Package]) -> list[Finding]:
    """The advisories of the copy that these packages are affected by."""
    return [
        Finding(name, version, each["id"], tuple(each["aliases"]), _fixed(affected), each["summary"])
        for each in copy["advisories"]
        for affected in each["affected"]
        for name, version in among
        if affected["name"] == name and is_affected(Version(version), affected)
    ]


def is_affected(version: Version, affected: Mapping[str, Any]) -> bool:
    """True if an advisory names this version, or one of its ranges holds it."""
    if str(version) in affected.get("versions", ()):
        return True
    for introduced, end, is_last in affected.get("ranges", ()):
        is_before = end is None or version < Version(end) or (is_last and version == Version(end))
        if version >= Version(introduced) and is_before:
            return True
    return False


def _fixed(affected: Mapping[str, Any]) -> str:
    return ", ".join(end for _, end, is_last in affected.get("ranges", ()) if end and not is_last)


def audit(paths: Iterable[Path], command: tuple[str, ...] = ()) -> tuple[list[Finding], set[Package]]:
    """The findings of the service, and the packages that it answered for; none where it is not reachable."""
    command_line = command or (str(Path(sys.executable).with_name("pip-audit")),)
    options = [
        "--no-deps",
        "--disable-pip",
        "--progress-spinner",
        "off",
        "--timeout",
        str(ANSWER_S),
        "-f",
        "json",
    ]
    named = [word for path in paths for word in ("-r", str(path))]
    try:
        done = subprocess.run(
            [*command_line, *options, *named], capture_output=True, text=True, check=False, timeout=ALL_S
        )
        answers = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, json.JSONDecodeError):
        return [], set()
    audited = [each for each in answers if "vulns" in each]
    advisories = [
        Finding(
            canonicalize_name(each["name"]),
            each["version"],
            one["id"],
            tuple(one["aliases"]),
            ", ".join(one["fix_versions"]),
            _summary(one.get("description", "")),
        )
        for each in audited
        for one in each["vulns"]
    ]
    return advisories, {(canonicalize_name(each["name"]), each["version"]) for each in audited}


def _summary(text: str) -> str:
    """The first words, enough to know what it is about, without addresses."""
    return " ".join(word for word in text.split() if "://" not in word)[:160]


def copy_of(database: Path, names: set[str]) -> list[dict[str, Any]]:
    """The advisories of a clone of the PyPA advisory database about packages of these names."""
    advisories = []
    for path in sorted(database.glob("vulns/*/*.yaml")):
        if canonicalize_name(path.parent.name) not in names:
            continue
        whole = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
        affected = [_affected(each) for each in whole["affected"] if "package" in each]
        own = [each for each in affected if each["name"] in names]
        if own and not whole.get("withdrawn"):
            advisories.append(
                {
                    "id": whole["id"],
                    "aliases": whole.get("aliases", []),
                    "summary": _summary(whole.get("summary") or whole["details"]),
                    "affected": own,
                }
            )
    return advisories


def _affected(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The package, and the ranges of its versions; single ones where there is no range."""
    ranges = [
        part
        for each in entry.get("ranges", [])
        if each["type"] == "ECOSYSTEM"
        for part in _ranges(each["events"])
    ]
    name = canonicalize_name(entry["package"]["name"])
    return (
        {"name": name, "ranges": ranges} if ranges else {"name": name, "versions": entry.get("versions", [])}
    )


def _ranges(events: Iterable[Mapping[str, str]]) -> Iterator[tuple[str, str | None, bool]]:
    """Each range: the version that begins it, the one that ends it, and if that is the last affected one."""
    introduced = None
    for event in events:
        if "introduced" in event:
            introduced = event["introduced"]
        elif introduced is not None:
            is_last = "last_affected" in event
            yield introduced, event["last_affected" if is_last else "fixed"], is_last
            introduced = None
    if introduced is not None:
        yield introduced, None, False


def write_copy(database: Path) -> None:
    """Make the copy anew, with the accepted reasons that it had."""
    before = json.loads(COPY.read_text(encoding="utf-8")) if COPY.is_file() else {}
    date = subprocess.run(
        ["git", "-C", str(database), "log", "-1", "--format=%cs"], capture_output=True, text=True, check=True
    ).stdout.strip()
    lines = ",\n".join(
        json.dumps(each, ensure_ascii=False)
        for each in copy_of(database, {name for name, _ in packages(locks())})
    )
    head = {
        "source": "PyPA advisory database, CC-BY 4.0, of the packages of the locks; by `make advisories`",
        "date": date,
        "accepted": before.get("accepted", {}),
    }
    text = json.dumps(head, indent=1, ensure_ascii=False).removesuffix("\n}")
    COPY.write_text(f'{text},\n "advisories": [\n{lines}\n]}}\n', encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Scan the locks, or make the copy; 1 where an advisory is found that is not accepted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("locks", nargs="*", type=Path, help="these files; all locks without")
    parser.add_argument(
        "--copy", type=Path, help="a clone of the PyPA advisory database to make the copy from"
    )
    parser.add_argument("--offline", action="store_true", help="ask no service")
    given = parser.parse_args(arguments)
    if given.copy:
        write_copy(given.copy)
        return 0
    paths = given.locks or locks()
    copy = json.loads(COPY.read_text(encoding="utf-8"))
    among = packages(paths)
    online, answered = ([], set()) if given.offline else audit(paths)
    rest = among - answered
    advisories = sorted({*online, *copied(copy, rest)})
    open_ones = [each for each in advisories if not each.ids & set(copy["accepted"])]
    for each in advisories:
        reasons = [copy["accepted"][known] for known in sorted(each.ids & set(copy["accepted"]))]
        print(f"{each}{''.join(f' ACCEPTED: {reason}' for reason in reasons)}")
    print(
        f"{len(among)} packages of {len(paths)} locks: {len(advisories)} advisories, "
        f"{len(open_ones)} without a reason; {len(answered)} judged by the service, "
        f"{len(rest)} by the copy of {copy['date']}" + (", which knows nothing newer" if rest else "")
    )
    return int(bool(open_ones))


if __name__ == "__main__":
    sys.exit(main())
