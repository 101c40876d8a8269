"""Pictures of the page: `python -m tools.pictures [FOLDER]` of every view, with `--demo` those of the docs.

Every view is taken at the width of a desk and of a phone, light and dark, in each state of
`tests.fakes.viewed`: quiet, in an incident, empty. The pictures go to FOLDER (runs/pictures), and a sheet
of each state to docs/images. `--demo` takes those of docs/how-to/use-the-page.md from `ipa demo`.
"""

from __future__ import annotations

import argparse
import base64
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx
from playwright.sync_api import Browser, Page

from tests.fakes.browsing import DESK, PHONE, VIEWS, chromium, opened, serving
from tests.fakes.viewed import STATES

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "images"
RUNS = ROOT / "runs" / "pictures"
# By name: the scheme and the width of the screen.
LOOKS = {
    "desk-light": ("light", DESK),
    "desk-dark": ("dark", DESK),
    "phone-light": ("light", PHONE),
    "phone-dark": ("dark", PHONE),
}
# By the name of the file: the view, the scheme and width of the screen, and the button whose dialog is shown.
PICTURES = {
    "now": ("/now/video", "light", DESK, ""),
    "decision": ("/decision/{change}", "light", DESK, ""),
    # A rate of its own, so that it does not follow the forecast from tick to tick.
    "what-if": ("/what-if/video?rate_rps=30", "light", DESK, ""),
    # A rate at which something else runs than under the demo's load.
    "apply": ("/what-if/video?rate_rps=60", "light", DESK, "Apply …"),
    "profiles": ("/profiles/video/crop", "light", DESK, ""),
    "now-dark-phone": ("/now/video", "dark", PHONE, ""),
}
# Changes after which there is something to see.
CHANGES = 12
LIMIT_S = 300.0
# The height of a picture on a sheet, in points, and the widths of a desk and a phone there.
SHEET_PX, SHEET_WIDTHS = 300, {DESK: 250, PHONE: 92}
SETTLED_MS = 700


def main() -> int:
    """Take the pictures that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=RUNS)
    parser.add_argument("--demo", action="store_true", help="those of the docs, from `ipa demo`")
    args = parser.parse_args()
    with chromium() as browser:
        if args.demo:
            of_the_demo(browser)
        else:
            of_every_view(browser, args.folder)
    return 0


def of_every_view(browser: Browser, folder: Path) -> None:
    """Every view in every state and look into the folder, and a sheet of each state."""
    folder.mkdir(parents=True, exist_ok=True)
    for state, made in STATES.items():
        pictures: dict[str, list[tuple[Path, int]]] = {}
        with serving(made()) as url:
            for view, address in VIEWS.items():
                for look, (scheme, width) in LOOKS.items():
                    path = folder / f"{state}-{view}-{look}.png"
                    with opened(browser, f"{url}#{address}", width=width, color_scheme=scheme) as page:
                        take(page, path)
                    pictures.setdefault(view, []).append((path, SHEET_WIDTHS[width]))
        sheet(browser, state, pictures, FOLDER / f"views-{state}.jpg")


def sheet(
    browser: Browser, state: str, pictures: Mapping[str, Sequence[tuple[Path, int]]], path: Path
) -> None:
    """All pictures of a state in one, two views a row; only the top of a long one."""
    cells = "".join(
        f"<figure><figcaption>{view}</figcaption>{''.join(map(_image, paths))}</figure>"
        for view, paths in pictures.items()
    )
    style = (
        "body{margin:0;padding:12px;background:#8a93a3;font:600 13px sans-serif;display:grid;"
        f"grid-template-columns:auto auto;gap:12px;width:max-content}}figure{{margin:0}}"
        f"div{{display:inline-block;height:{SHEET_PX}px;overflow:hidden;margin-right:6px;vertical-align:top}}"
        "img{width:100%;display:block}"
    )
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.set_content(f"<style>{style}</style><title>{state}</title>{cells}")
    page.locator("body").screenshot(path=str(path), type="jpeg", quality=72)
    page.close()
    print(path)


def _image(picture: tuple[Path, int]) -> str:
    path, width = picture
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<div style="width:{width}px"><img src="data:image/png;base64,{data}"></div>'


def of_the_demo(browser: Browser) -> None:
    """Start the demo, wait for its first changes, and take the pictures of the docs."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("ipa")), "demo", "--port", str(port), "--speed", "30"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as demo:
        try:
            change = newest_change(f"http://127.0.0.1:{port}")
            for name, (view, scheme, width, button) in PICTURES.items():
                address = f"http://127.0.0.1:{port}/#{view.format(change=change)}"
                with opened(browser, address, width=width, height=900, color_scheme=scheme) as page:
                    page.wait_for_timeout(3000)
                    take(page, FOLDER / f"{name}.png", button)
        finally:
            demo.terminate()


def take(page: Page, path: Path, button: str = "") -> None:
    """The view once nothing of it is being worked out, and its figures had a moment; or what is over it."""
    page.get_by_text("It follows when the controls come to rest").first.wait_for(state="hidden")
    page.wait_for_selector("[aria-busy=true]", state="detached")
    page.wait_for_timeout(SETTLED_MS)
    if button:
        page.get_by_role("button", name=button).click()
    page.screenshot(path=str(path), full_page=not button)
    print(path)


def newest_change(url: str) -> str:
    """The id of the newest change, once the demo has made some; TimeoutError where it does not."""
    until_s = time.monotonic() + LIMIT_S
    with httpx.Client(base_url=url, transport=httpx.HTTPTransport(retries=50)) as client:
        while time.monotonic() < until_s:
            time.sleep(2.0)
            answer = client.get("/v1/pipelines/video/history", params={"limit": CHANGES})
            changes = answer.json()["decisions"] if answer.is_success else []
            if len(changes) >= CHANGES:
                return str(changes[0]["decision_id"])
    raise TimeoutError(f"no {CHANGES} changes within {LIMIT_S:g} s")


if __name__ == "__main__":
    sys.exit(main())
