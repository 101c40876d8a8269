"""The time from a slider of What-if that moves until its figures are those of the new plan."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page

from ipa.adapters.solvers.planner import PlannerProcesses
from ipa.api.context import ApiContext
from ipa.cli.options import FileFolders
from tests.fakes.services import FakeWorld, over

PIPELINES = Path(__file__).parents[2] / "pipelines"
RATE_RPS = 10
# Moves the slider to so many places, each once the figures of the one before are there and painted.
MOVE = """async ([least, most, times]) => {
  const slider = document.querySelector("[data-name=rate_rps]");
  const box = document.querySelector(".answer");
  const took = [];
  for (let at = 1; at <= times; at += 1) {
    await new Promise((resolve) => setTimeout(resolve, 50));
    const changed = new Promise((resolve) => {
      const watch = new MutationObserver(() => { watch.disconnect(); resolve(); });
      watch.observe(box, { childList: true, subtree: true });
    });
    const began = performance.now();
    slider.value = String(least + ((most - least) * at) / times);
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    await changed;
    await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
    took.push(performance.now() - began);
  }
  return took;
}"""


def names() -> list[str]:
    """The pipelines that come with us."""
    return sorted(path.parent.name for path in PIPELINES.glob("*/pipeline.yaml"))


def given(world: FakeWorld, planner: PlannerProcesses) -> ApiContext:
    """Services over the pipelines that come with us, none of which runs."""
    loaded = {name: FileFolders().load(name)[:2] for name in names()}
    profiles = {name: files[1] for name, files in loaded.items()}
    pipelines = {name: files[0] for name, files in loaded.items()}
    context = over(world.services(), pipelines=pipelines, loops={}, planner=planner)
    context.service.registry.profiles.update(profiles)  # type: ignore[attr-defined]
    return context


def sliding_ms(page: Page, url: str, pipeline: str, times: int) -> list[float]:
    """Of each move, from the input until the figures that changed are painted."""
    page.goto(f"{url}#/what-if/{pipeline}?rate_rps={RATE_RPS}")
    page.locator(".answer:not([aria-busy])").wait_for()
    return [float(each) for each in page.evaluate(MOVE, [RATE_RPS / 2, 2 * RATE_RPS, times])]
