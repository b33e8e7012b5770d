"""Takes the pictures of README.md from the report of the digits demonstration: ``python docs/images/make.py``.

Answers: what does a reader of the report see first, and what does the loss surface at the saddle look like?
Needs ``playwright`` (of the ``dev`` extra) and a Chromium. The pictures are kept in the repository; take
them again when the page changes.
"""

import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from playwright.sync_api import Page, sync_playwright

import unstick
from unstick.studies.demo import demonstrate

HERE = Path(__file__).parent
WIDTH = 1080  # pixels of the page as it is laid out
SCALE = 2  # pixels of the picture for each of them
LARGEST = 450_000  # bytes
MARGIN = 24  # pixels around what is shown
SWITCHES = ["--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader"]
PICTURES = {
    "report.png": (".verdict", "#run"),  # from the verdict to the end of the run's figure
    "landscape.png": ("#plane", "#surface"),
}
BOX = """([first, last]) => {
    const place = (name) => {
        const shown = document.querySelector(name);
        return (shown.closest('figure.drawing') ?? shown).getBoundingClientRect();
    };
    const [a, b] = [place(first), place(last)];
    return [Math.min(a.left, b.left), a.top + scrollY, Math.max(a.right, b.right), b.bottom + scrollY];
}"""


def main() -> None:
    """Run the demonstration, open its page, and cut the pictures out of it."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("no Chromium on this machine")
    torch.set_num_threads(1)  # on a busy machine two threads wait for each other
    with TemporaryDirectory() as folder, sync_playwright() as playwright:
        report = Path(folder) / "report.html"
        unstick.save(demonstrate(data="digits"), report)
        browser = playwright.chromium.launch(executable_path=chromium, args=SWITCHES)
        page = browser.new_page(
            viewport={"width": WIDTH, "height": 900},
            device_scale_factor=SCALE,
            color_scheme="light",
        )
        page.goto(report.as_uri())
        page.wait_for_function("document.documentElement.dataset.drawn", timeout=60_000)
        for name, ends in PICTURES.items():
            _take(page, HERE / name, ends)
        browser.close()


def _take(page: Page, path: Path, ends: tuple[str, str]) -> None:
    left, top, right, bottom = page.evaluate(BOX, list(ends))
    x, y = max(0, left - MARGIN), max(0, top - MARGIN)
    clip: Any = {
        "x": x,
        "y": y,
        "width": min(WIDTH, right + MARGIN) - x,
        "height": bottom + MARGIN - y,
    }
    page.screenshot(path=path, full_page=True, clip=clip)
    size = path.stat().st_size
    if size > LARGEST:
        sys.exit(f"{path} has {size:,} bytes; expected at most {LARGEST:,}")


if __name__ == "__main__":
    main()
