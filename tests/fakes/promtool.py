"""Prometheus' own tool: whether rules are right, and which alerts fire over given series."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fakes.monitored import SCRAPE_S, Scraped

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules.yaml"
METRIC = re.compile(r"\bipa_\w+")
FOUND = re.compile(r"alertname: (\w+), time: (\w+)")

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool, of Debian's package prometheus"
)


def promtool(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["promtool", *words], cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )


@cache
def alert_names() -> tuple[str, ...]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return tuple(rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule)


@cache
def alerted_series() -> frozenset[str]:
    """The series that the rules look at."""
    return frozenset(METRIC.findall(RULES.read_text()))


def alerts_over(scraped: Scraped, until_s: float, folder: Path, every_s: int = 60) -> frozenset[str]:
    """The alerts that fire at any minute of what was scraped."""
    none: list[Any] = []
    rules = [
        {"eval_time": f"{at_s}s", "alertname": name, "exp_alerts": none}
        for at_s in range(every_s, int(until_s) + 1, every_s)
        for name in alert_names()
    ]
    named = alerted_series()
    series = [each for each in scraped.input_series() if each["series"].partition("{")[0] in named]
    return _fired(series, rules, folder)


def _fired(series: Sequence[dict[str, str]], rules: Sequence[dict[str, Any]], folder: Path) -> frozenset[str]:
    """Asked that nothing fires, promtool names what does."""
    case = {"interval": f"{SCRAPE_S:g}s", "input_series": list(series), "alert_rule_test": list(rules)}
    document = {
        "rule_files": [str(RULES)],
        "evaluation_interval": f"{2 * SCRAPE_S:g}s",
        "tests": [case],
    }
    path = folder / "alerts_test.yaml"
    path.write_text(yaml.dump(document, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), width=10_000))
    done = promtool("test", "rules", str(path), cwd=folder)
    fired = frozenset(match[1] for match in FOUND.finditer(done.stdout + done.stderr))
    # What it cannot read is no silence.
    assert bool(fired) == (done.returncode != 0), done.stdout + done.stderr
    assert "error expanding template" not in done.stdout + done.stderr
    return fired
