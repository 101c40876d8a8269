"""Pictures of the page's views for docs/how-to/use-the-page.md, from `ipa demo` as it stands."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
from playwright.sync_api import Page, sync_playwright

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "images"
# By the name of the file: the view, the scheme and width of the screen, and the button whose dialog is shown.
PICTURES = {
    "now": ("/now/video", "light", 1280, ""),
    "decision": ("/decision/{change}", "light", 1280, ""),
    # A rate of its own, so that it does not follow the forecast from tick to tick.
    "what-if": ("/what-if/video?rate_rps=30", "light", 1280, ""),
    # A rate at which something else runs than under the demo's load.
    "apply": ("/what-if/video?rate_rps=60", "light", 1280, "Apply …"),
    "profiles": ("/profiles/video/crop", "light", 1280, ""),
    "now-dark-phone": ("/now/video", "dark", 390, ""),
}
# Changes after which there is something to see.
CHANGES = 12
LIMIT_S = 300.0


def main() -> int:
    """Start the demo, wait for its first changes, and take all pictures."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("ipa")), "demo", "--port", str(port), "--speed", "30"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as demo:
        try:
            change = newest_change(f"http://127.0.0.1:{port}")
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=shutil.which("chromium"),
                    args=["--no-sandbox", "--disable-gpu", "--disable-quic"],
                )
                for name, (view, scheme, width, button) in PICTURES.items():
                    page = browser.new_page(
                        viewport={"width": width, "height": 900}, color_scheme=scheme, device_scale_factor=1
                    )
                    address = f"http://127.0.0.1:{port}/#{view.format(change=change)}"
                    take(page, address, FOLDER / f"{name}.png", button)
                browser.close()
        finally:
            demo.terminate()
    return 0


def take(page: Page, address: str, path: Path, button: str) -> None:
    """The view once nothing of it is being worked out, and its figures had a moment; or what is over it."""
    page.goto(address)
    page.wait_for_selector(".view:not([aria-busy])")
    page.get_by_text("Follows once the controls rest").first.wait_for(state="hidden")
    page.wait_for_selector("[aria-busy=true]", state="detached")
    page.wait_for_timeout(3000)
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
