"""Incidents for people: when, why, how bad, and what was done."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.text import Text

from ipa.cli.views.times import date_time, time_of_day

# The kinds of trouble in words.
TROUBLES = {
    "slo_broken": "SLO broken",
    "overloaded": "overloaded",
    "blind": "load or workload not seen",
    "rolled_back": "change rolled back",
    "held": "held",
}


def incident_lines(incidents: Sequence[dict[str, Any]]) -> list[Text]:
    """Some lines for each incident, newest first; one without an end lasts."""
    return [line for each in incidents for line in _lines(each)] or [Text("no incidents")]


def lasting_incident(status: dict[str, Any]) -> list[str]:
    """The line about an incident that lasts; services before 0.2 do not tell."""
    found = status.get("incident")
    if not found:
        return []
    since = _lasted(found["begun_at"], status["live"]["at"])
    return [f"Incident since {date_time(found['begun_at'])} ({since}), {_kinds(found)}: {found['cause']}"]


def _lines(incident: dict[str, Any]) -> list[Text]:
    begun, ended = incident["begun_at"], incident["ended_at"]
    when = f"lasted {_lasted(begun, ended)}" if ended else "lasts"
    lines = [
        Text(f"{date_time(begun)}  {when}  {_kinds(incident)}", style="" if ended else "bold red"),
        Text(f"  cause  {incident['cause']}"),
    ]
    if worst := _worst(incident):
        lines.append(Text(f"  worst  {worst}"))
    lines += [
        Text(f"  done   {time_of_day(each['at'])} {each['reason']}: {each['detail']}{_by(each)}")
        for each in incident["actions"]
    ]
    more = incident["action_count"] - len(incident["actions"])
    if more:
        lines.append(Text(f"  done   {more} more changes"))
    if not incident["actions"]:
        lines.append(Text(f"  done   nothing; {incident['held'] or 'no decision was made'}"))
    return lines


def _kinds(incident: dict[str, Any]) -> str:
    return ", ".join(TROUBLES.get(each, each) for each in incident["troubles"])


def _worst(incident: dict[str, Any]) -> str:
    ratio, latency, rate = incident["in_time_ratio"], incident["latency_s"], incident["rate_rps"]
    found = [
        None if ratio is None else f"{100 * ratio:.1f} % in time",
        None if latency is None else f"latency {latency:.3g} s",
        f"about {incident['lost']:.0f} requests lost" if incident["lost"] >= 1 else None,
        None if rate is None else f"{rate:.3g} rps",
    ]
    return ", ".join(each for each in found if each)


def _lasted(begun: str, ended: str) -> str:
    """The time between the two in words, such as "3 min 20 s"."""
    seconds = (datetime.fromisoformat(ended) - datetime.fromisoformat(begun)).total_seconds()
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (rest, "s")]
    return " ".join(f"{count} {unit}" for count, unit in parts if count) or "0 s"


def _by(action: dict[str, Any]) -> str:
    return f", by {action['by']}" if action["by"] else ""
