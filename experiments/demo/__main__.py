"""Runs the main job: adaptive, then under static plans; writes runs/demo/summary.json and report.html.

The rates follow the machine: at its peak the load is more than the most accurate plan carries here.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.demo.live import LiveTable
from experiments.demo.report import render, runs_rows
from experiments.demo.service import PIPELINE, Service
from experiments.demo.summary import RunRecord, compare, read_requests, summarise
from experiments.demo.table import markdown
from experiments.live.cells import Subject, calibrated_subject, pinned_folder
from experiments.neighbours import neighbours
from ipa.adapters.processes import processor_name
from ipa.control.engine.plan_selection import capacity_rps
from ipa.model.plan import Plan
from ipa.optimize.solve import solve
from ipa.policies.planning import planning_problem
from pipelines.ocr.client import score_answer

# The pages that are sent and the truth they are scored by come from the same seed.
SEED, PAGES = 7, 24
SAMPLE_EVERY_S = 1.0
# The peak, of what the most accurate plan carries, and of what any plan does.
PEAK_RATIO, MOST_RATIO = 2.0, 0.75
# The peak, of the lowest rate.
RISE = 5.0
CALIBRATED_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Job:
    """One run: its name, how the service is started, and how long the shape of the load takes.

    With `fixed`, a plan, all of it is pinned: queues choose nothing either.
    """

    name: str
    arguments: tuple[str, ...]
    duration_s: float
    fixed: Plan | None = None


def planned(subject: Subject, objective: str, rate_rps: float) -> Plan:
    """The plan for that objective and rate, by the profiles calibrated here."""
    return solve(planning_problem(subject.pipeline, subject.profiles, rate_rps, objective=objective))


def rates_rps(subject: Subject, low_rps: float | None, high_rps: float | None) -> tuple[float, float]:
    """The lowest and the highest rate, where they are not given from what plans carry on this machine."""
    if high_rps is None:
        carried_rps = capacity_rps(planned(subject, "largest", 1.0))
        high_rps = min(PEAK_RATIO * carried_rps, MOST_RATIO * subject.largest.rate_rps)
    return (high_rps / RISE if low_rps is None else low_rps), high_rps


def jobs(
    subject: Subject, low_rps: float, high_rps: float, seconds: float, static_seconds: float
) -> list[Job]:
    """The runs. The smallest plan is made for the peak, the largest for the lowest rate."""
    active = ("--mode", "active", "--rate", str(low_rps), "--policy")
    smallest, largest = planned(subject, "smallest", high_rps), planned(subject, "largest", low_rps)
    by_queues = (*active, "static", "--objective", "largest")
    return [
        Job("adaptive", (*active, "ours"), seconds),
        Job("static-smallest", (*active, "static"), static_seconds, smallest),
        Job("static-largest", (*active, "static"), static_seconds, largest),
        Job("static-largest-resident", by_queues, static_seconds),
    ]


def run(
    job: Job,
    subject: Subject,
    rates: tuple[float, float],
    folder: Path,
    options: argparse.Namespace,
    console: Console,
) -> RunRecord:
    """The record of one run, from start of the service to its end."""
    place = folder / job.name
    environment = {"IPA_PROFILES_DIR": str(subject.profiles_dir)}
    if job.fixed is not None:
        pipelines = pinned_folder(subject.pipeline, job.fixed.configs, place / "pipelines")
        environment["IPA_PIPELINES_DIR"] = str(pipelines)
    with Service(place, options.port, job.arguments, environment=environment) as service:
        service.wait_ready()
        console.print(f"[bold]{job.name}[/bold]: page at {service.url}", highlight=False)
        paid = service.counter("ipa_allocated_core_seconds_total")
        out = place / "requests.jsonl"
        with neighbours(options.busy):
            load = start_load(service, job, rates, out)
            try:
                samples = watch(service, job, load, console, options)
            finally:
                load.terminate()
                load.wait()
        if load.returncode != 0:
            raise RuntimeError(f"the load generator ended with exit code {load.returncode}")
        return RunRecord(
            name=job.name,
            duration_s=job.duration_s,
            requests=read_requests(out),
            decisions=service.decisions(),
            samples=samples,
            core_seconds=service.counter("ipa_allocated_core_seconds_total") - paid,
            replica_restarts=int(service.counter("ipa_replica_restarts_total")),
        )


def start_load(service: Service, job: Job, rates: tuple[float, float], out: Path) -> subprocess.Popen[bytes]:
    """The load generator, in a process of its own so that it does not slow the service."""
    command = [
        sys.executable,
        "-m",
        "experiments.demo.load",
        "--url",
        service.router_url(),
        "--out",
        str(out),
    ]
    low_rps, high_rps = rates
    command += ["--duration", str(job.duration_s), "--low", str(low_rps), "--high", str(high_rps)]
    return subprocess.Popen([*command, "--seed", str(SEED), "--pages", str(PAGES)])


def watch(
    service: Service, job: Job, load: subprocess.Popen[bytes], console: Console, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """The live samples of the run, one a second; shows them as it goes."""
    started = time.monotonic()
    samples: list[dict[str, Any]] = []
    applied: set[int] = set()
    shot = False
    with LiveTable(console, job.name, job.duration_s) as table:
        while load.poll() is None:
            status = service.status()
            at_s = time.monotonic() - started
            is_new = (status["reason"] or "").startswith("apply.") and status["tick"] not in applied
            if is_new:
                applied.add(status["tick"])
            samples.append(sample(status, at_s, is_new))
            table.show(at_s, status)
            if options.screenshot and not shot and job.name == "adaptive" and at_s > 0.7 * job.duration_s:
                take_screenshot(service.url, options.screenshot)
                shot = True
            time.sleep(max(0.0, started + len(samples) * SAMPLE_EVERY_S - time.monotonic()))
    return samples


def sample(status: dict[str, Any], at_s: float, applied: bool) -> dict[str, Any]:
    """The report's plotted figures of one moment."""
    forecast = status["forecast"] or {}
    return {
        "t_s": at_s,
        "rate_rps": status["rate_rps"],
        "forecast_rps": forecast.get("point_rps"),
        "forecast_upper_rps": forecast.get("upper_rps"),
        "latency_s": status["latency_s"],
        "cost_cores": status["cost_cores"],
        "pas": status["pas"],
        "applied": applied,
    }


def take_screenshot(url: str, path: Path) -> None:
    """A picture of the page's Timeline as it is now."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium-headless-shell") or shutil.which("chromium"),
            args=["--no-sandbox", "--disable-gpu", "--disable-quic"],
        )
        page = browser.new_page(viewport={"width": 1280, "height": 900}, device_scale_factor=1.5)
        page.goto(f"{url.rstrip('/')}/#/timeline")
        page.locator("#figure-accuracy .plot g .l").first.wait_for()
        page.screenshot(path=str(path), full_page=True)
        browser.close()


def machine() -> dict[str, Any]:
    """The machine the figures are from."""
    return {
        "cores": os.cpu_count(),
        "processor": processor_name(),
        "python": platform.python_version(),
    }


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options of the demo."""
    parser = argparse.ArgumentParser(prog="experiments.demo", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/demo"))
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--low", type=float, help="lowest rate, pages a second")
    parser.add_argument(
        "--high", type=float, help="highest rate (default: twice what the most accurate plan carries)"
    )
    parser.add_argument("--seconds", type=float, default=130.0, help="how long the adaptive run takes")
    parser.add_argument("--static-seconds", type=float, default=45.0, help="how long each static run takes")
    parser.add_argument("--busy", type=int, default=0, help="busy loops beside each run")
    parser.add_argument("--screenshot", type=Path, help="write a picture of the page there")
    return parser.parse_args(arguments)


def main() -> None:
    """Run everything, write the summary and the report, print the table."""
    options = parse()
    started = time.monotonic()
    console = Console()
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    load_before, _, _ = os.getloadavg()
    subject = calibrated_subject(PIPELINE, (options.folder / "profiles").resolve(), CALIBRATED_WITHIN_S)
    pipeline = subject.pipeline
    rates = low_rps, high_rps = rates_rps(subject, options.low, options.high)
    console.print(f"{low_rps:.3g} to {high_rps:.3g} pages a second", highlight=False)
    records = {
        job.name: run(job, subject, rates, options.folder, options, console)
        for job in jobs(subject, low_rps, high_rps, options.seconds, options.static_seconds)
    }
    runs = {}
    for name, record in records.items():
        answers = [r for r in record.requests if r["outcome"] == "answered"]
        accuracies = [score_answer(SEED, PAGES, r["page"], r["answer"]) for r in answers]
        runs[name] = summarise(record, pipeline.sla.latency_s, accuracies)
    summary = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "pipeline": PIPELINE,
        "machine": machine(),
        "sla_s": pipeline.sla.latency_s,
        "rate_rps": {"low": low_rps, "high": high_rps},
        "neighbours": options.busy,
        "load_before": load_before,
        "runs": runs,
        "comparison": compare(runs),
        "took_s": time.monotonic() - started,
    }
    (options.folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    (options.folder / "table.md").write_text(f"{markdown(summary)}\n")
    (options.folder / "report.html").write_text(render(summary, records))
    show(console, summary, options.folder)


def show(console: Console, summary: dict[str, Any], folder: Path) -> None:
    """The table of the runs."""
    table = Table(title=f"OCR pipeline, SLA {summary['sla_s']:g} s", title_justify="left")
    table.add_column("")
    for name in summary["runs"]:
        table.add_column(name, justify="right")
    for row in runs_rows(summary["runs"]):
        table.add_row(*row)
    console.print(table)
    above = summary["comparison"]
    console.print(
        f"accuracy {above['accuracy_above_smallest']:+.3f} against the smallest plan, "
        f"share within SLA {above['within_sla_above_largest']:+.1%} against the largest",
        highlight=False,
    )
    console.print(
        f"{folder / 'summary.json'}  {folder / 'report.html'}  ({summary['took_s']:.0f} s)", highlight=False
    )


if __name__ == "__main__":
    main()
