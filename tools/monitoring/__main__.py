"""Writes the rules, the dashboard and the reference of the metrics; `--check` fails where they differ."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tools.monitoring.alerts import GROUPS, Alert
from tools.monitoring.dashboard import dashboard
from tools.monitoring.reference import reference
from tools.monitoring.rules import recordings

ROOT = Path(__file__).resolve().parents[2]
HEAD = "# Made by `make reference` from tools/monitoring; change it there.\n"
# What the Prometheus Operator selects by, and what a Helm chart may want to change.
META = {"name": "ipa", "labels": {"app.kubernetes.io/name": "ipa"}}
MONITORING = "monitoring.coreos.com/v1"


class Words(str):
    """Text that YAML keeps line by line."""

    __slots__ = ()


def _keep_lines(dumper: yaml.SafeDumper, words: Words) -> yaml.Node:
    style = "|" if "\n" in words else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", str(words), style=style)


class Dumper(yaml.SafeDumper):
    """Writes lists indented, and text of several lines as it is."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


Dumper.add_representer(Words, _keep_lines)


def dumped(document: Any) -> str:
    """The document as YAML under the head line."""
    return HEAD + yaml.dump(document, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=10_000)


def rule_groups() -> list[dict[str, Any]]:
    """The groups as Prometheus and its operator take them."""
    recorded = [{"record": rule.name, "expr": Words(rule.expr)} for rule in recordings()]
    groups: list[dict[str, Any]] = [{"name": "ipa-slo", "rules": recorded}]
    for name, alerts in GROUPS.items():
        groups.append({"name": name, "rules": [_alert(alert) for alert in alerts]})
    return groups


def _alert(alert: Alert) -> dict[str, Any]:
    lasting = {} if alert.lasting == "0s" else {"for": alert.lasting}
    return {
        "alert": alert.name,
        "expr": Words(alert.expr),
        **lasting,
        "labels": {"severity": alert.severity},
        "annotations": {
            "summary": alert.summary,
            "description": alert.description,
            "runbook_url": alert.runbook,
        },
    }


def files() -> Iterator[tuple[str, str]]:
    """Every file that is made, and what is in it."""
    groups = rule_groups()
    rules = dumped({"groups": groups})
    yield "deploy/prometheus/rules.yaml", rules
    # A chart reads files of its own folder only.
    yield "deploy/helm/ipa/files/rules.yaml", rules
    rule = {"apiVersion": MONITORING, "kind": "PrometheusRule", "metadata": META, "spec": {"groups": groups}}
    yield "deploy/prometheus/prometheusrule.yaml", dumped(rule)
    board = json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"
    yield "deploy/grafana/ipa.json", board
    yield "deploy/helm/ipa/files/dashboard.json", board
    yield "docs/reference/metrics.md", reference()


def main() -> int:
    """0 where every file is as it should be (after writing, always)."""
    stale = [
        (ROOT / path, text)
        for path, text in files()
        if not (ROOT / path).is_file() or (ROOT / path).read_text(encoding="utf-8") != text
    ]
    if "--check" in sys.argv[1:]:
        sys.stdout.write("".join(f"{path} is stale: run make reference\n" for path, _ in stale))
        return int(bool(stale))
    for path, text in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
