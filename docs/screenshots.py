"""Pictures of every tab of the app, wide and narrow, light and dark: `make screenshots`.

Writes build/screenshots/<tab>-<width>-<mode>.png, and the ones that the documentation shows to
docs/. The app starts with the sample's concept and one picture of it; --train trains the sample
too, so that the Train tab shows a result. Needs playwright and Debian's Chromium.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
TABS = ("Train", "Generate", "Compare", "Share")
WIDTHS = (1_280, 390)  # px
SHOWN = {"train-1280-light": "app-train", "generate-1280-light": "app-generate"}
FLAGS = ("--no-sandbox", "--disable-gpu")
TIMEOUT = 600_000  # ms


@contextlib.contextmanager
def app(home: str) -> Iterator[str]:
    """The address of the app, with the sample's concept in its library."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    concept = ROOT / "samples" / "robot" / "robot.safetensors"
    command = [sys.executable, "-m", "svfit_diffusion.cli", "app", "--port", str(port)]
    environment = os.environ | {"SVFIT_HOME": home, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [*command, "--concept", str(concept)], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        try:
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.terminate()


def prepare(browser: Browser, url: str, train: bool) -> None:
    """Generate two pictures, and train the sample if wanted."""
    page = browser.new_page()
    page.set_default_timeout(TIMEOUT)
    page.goto(url)
    page.get_by_role("tab", name="Generate").click()
    page.wait_for_timeout(3_000)
    page.locator("#prompt textarea").fill("a photo of sks toy on the beach")
    page.locator("button.go:visible").click()
    page.wait_for_function("document.querySelectorAll('#pictures img').length >= 2")
    page.wait_for_timeout(2_000)
    if train:
        page.get_by_role("tab", name="Train").click()
        page.get_by_role("button", name="Try it with the sample").click()
        page.locator("#views img").nth(4).wait_for()
        page.get_by_text("In prompts you will call it").wait_for()
        page.locator("button.go:visible").click()
        page.locator(".run.done").wait_for()
        page.wait_for_timeout(3_000)
    page.close()


def take(page: Page, url: str, folder: Path, width: int, mode: str) -> None:
    """A picture of each tab, as long as the tab is."""
    page.goto(f"{url}?__theme={mode}")
    page.wait_for_timeout(4_000)
    for tab in TABS:
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(3_000)
        page.screenshot(path=folder / f"{tab.lower()}-{width}-{mode}.png", full_page=True)


def main() -> int:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", action="store_true", help="train the sample first; minutes")
    parser.add_argument("--docs", action="store_true", help="replace the pictures in docs/ too")
    parser.add_argument("--url", help="of an app that runs already, which is left as it is")
    given = parser.parse_args()
    folder = ROOT / "build" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory())
        url = given.url or stack.enter_context(app(home))
        player = stack.enter_context(sync_playwright())
        browser = player.chromium.launch(executable_path=shutil.which("chromium"), args=list(FLAGS))
        if not given.url:
            prepare(browser, url, given.train)
        for width in WIDTHS:
            page = browser.new_page(viewport={"width": width, "height": 900})
            for mode in ("light", "dark"):
                take(page, url, folder, width, mode)
        browser.close()
    for name, shown in SHOWN.items() if given.docs else ():
        shutil.copyfile(folder / f"{name}.png", ROOT / "docs" / f"{shown}.png")
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
