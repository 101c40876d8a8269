"""`python -m experiments.page_speed`: how long each view of the page takes to open, and a figure to move on.

A real Chromium with nothing in its cache opens each view of a service on this machine, over a pipeline that
ran for a while; the times are the browser's own, from the navigation until the view says that it is there and
is painted. Plans and explanations are computed in processes of their own, as in a running service.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median
from time import monotonic

from playwright.sync_api import Browser, Page

from experiments.page_speed.slider import given, names, sliding_ms
from ipa.adapters.solvers.planner import PlannerProcesses
from tests.fakes.browsing import OPENED, VIEWS, chromium, serving
from tests.fakes.services import FakeWorld, over
from tests.fakes.viewed import viewed

TICKS = 600
FIGURES = 5
MOVES = 40
IS_OPEN = f"() => document.querySelector('{OPENED}')"
# The time once the frame with it is painted.
PAINTED = "new Promise((done) => requestAnimationFrame(() => setTimeout(() => done(performance.now()))))"
# Five figures of a band, a line and a step, with marks, drawn again and again with a point more.
REDRAW = (Path(__file__).parent / "redraw.js").read_text()


@contextmanager
def fresh(browser: Browser) -> Iterator[Page]:
    """A page with an empty cache."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield context.new_page()
    context.close()


def opening_ms(browser: Browser, url: str, address: str) -> float:
    """From the navigation until the view is there."""
    with fresh(browser) as page:
        page.goto(f"{url}#{address}", wait_until="commit")
        return float(page.wait_for_function(f"{IS_OPEN} && {PAINTED}").json_value())


def moving_ms(browser: Browser, url: str, world: FakeWorld) -> float:
    """From a tick of the loop until the Timeline shows it."""
    with fresh(browser) as page:
        page.goto(f"{url}#{VIEWS['timeline']}")
        line = page.locator("#figure-load .plot .l").last
        before = line.get_attribute("d")
        world.tick()
        began_s = monotonic()
        path = "document.querySelectorAll('#figure-load .plot .l')"
        page.wait_for_function(f"before => [...{path}].pop().getAttribute('d') !== before", arg=before)
        return 1000 * (monotonic() - began_s)


def drawing_ms(browser: Browser, url: str, points: int) -> list[float]:
    """The time to draw the figures anew, all together."""
    with fresh(browser) as page:
        page.goto(f"{url}#{VIEWS['health']}")
        page.wait_for_function(IS_OPEN)
        return [float(each) for each in page.evaluate(REDRAW, [FIGURES, points, 20])]


def spread(measure: Callable[[], float], times: int) -> str:
    """Median and range of that many."""
    times_ms = [measure() for _ in range(times)]
    return f"{median(times_ms):6.0f} ms  ({min(times_ms):.0f} to {max(times_ms):.0f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m experiments.page_speed", description=__doc__)
    parser.add_argument("--times", type=int, default=5, help="how often each is measured")
    times = parser.parse_args().times
    world, planner = FakeWorld().play(TICKS), PlannerProcesses()
    with closing(planner), chromium() as browser, serving(over(viewed(world), planner=planner)) as url:
        for view, address in VIEWS.items():
            print(f"{view:12} opens in {spread(lambda at=address: opening_ms(browser, url, at), times)}")
        print(f"{'a tick':12} shows in {spread(lambda: moving_ms(browser, url, world), times)}")
        for points in (180, 600):
            drawn = drawing_ms(browser, url, points)
            text = f"{median(drawn):.0f} ms, at most {max(drawn):.0f} ms"
            print(f"{FIGURES} figures of {points} points move on in {text}")
    with closing(planner), chromium() as browser, serving(given(world, planner)) as url:
        for name in names():
            with fresh(browser) as page:
                moved = sliding_ms(page, url, name, MOVES)
            text = f"{median(moved):.0f} ms, at most {max(moved):.0f} ms"
            print(f"a slider of What-if over {name} shows its plan in {text}")


if __name__ == "__main__":
    main()
