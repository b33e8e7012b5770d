"""Writes the real run on the page of each cause: ``python docs/causes/make.py``, or with the names of causes.

Answers: on a labelled stall of the gallery, what does the diagnosis say, and what did each remedy reach?
Does not answer: how often it is right; that is ``unstick gallery``.

A stall is trained, diagnosed and treated; the picture is taken of the report's own figures, the numbers go between the two
marks of the page. Where the diagnosis names another cause than the page's, nothing is written. Needs ``playwright`` (of the
``dev`` extra), Pillow (which comes with ``mnist1d``) and a Chromium. Takes about ten minutes for all causes on one core.
"""

import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import torch
from PIL import Image
from playwright.sync_api import Page, sync_playwright

import unstick
from unstick.diagnosis.cause import Cause
from unstick.diagnosis.diagnosing import Diagnosis
from unstick.diagnosis.trials import Trial
from unstick.errors import NonFinite
from unstick.record import number
from unstick.studies.gallery import Stall, all_stalls

HERE = Path(__file__).parent
MARKS = re.compile(r"(<!-- written by make\.py -->\n).*?(<!-- until here -->)", re.DOTALL)
WIDTH = 720  # pixels of the page as it is laid out
SCALE = 1.25  # pixels of the picture for each of them
MARGIN = 10  # pixels above and below what is shown
HEIGHTS = {"history": 230, "trials": 400}  # of the figures, in pixels of the page
COLORS = (256, 128, 96, 64)  # of a picture; the first number that makes it small enough
LARGEST = 60_000  # bytes
BEST = 3  # trials that are told
LONGEST = 110  # letters of a line of code
SWITCHES = ["--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader"]
BARE = """
    body { padding: 10px 0 !important; background: #fff !important; }
    figcaption, section > h2, section > p, section > ul, .scroll, header, footer { display: none !important; }
    figure.drawing { border: 0 !important; box-shadow: none !important; margin: 0 !important; }
"""


@dataclass(frozen=True, slots=True)
class Shown:
    """The training that a page shows."""

    stall: str  # of the gallery
    seed: int = 0  # of the training and the diagnosis
    root: Cause | None = None  # that is named before the page's; None: the page's is named first
    refused: str = ""  # a stall that cannot even start, and says why


SHOWN: Final = {
    Cause.STRICT_SADDLE: Shown("zero-start"),
    Cause.DEGENERATE_POINT: Shown("five-scalars-at-zero"),
    Cause.LOCAL_MINIMUM: Shown("false-frequency"),
    Cause.ZERO_GRADIENT_PATH: Shown("softmax-of-one"),
    Cause.DEAD_UNITS: Shown("dead-relu-circle"),
    Cause.SATURATED_UNITS: Shown("saturated-tanh"),
    Cause.VANISHING_GRADIENT: Shown("vanishing-sigmoid-circle"),
    Cause.SYMMETRIC_UNITS: Shown("alike-units"),
    Cause.NON_FINITE: Shown(
        "linear-blow-up", root=Cause.LEARNING_RATE_TOO_LARGE, refused="exponential-activation"
    ),
    Cause.UNSCALED_INPUTS: Shown("starved-pixels"),
    Cause.UNSCALED_TARGETS: Shown("raw-quartic"),
    Cause.LOSS_OUTPUT_MISMATCH: Shown("softmax-twice"),
    Cause.LEARNING_RATE_TOO_LARGE: Shown("parabola-blow-up", seed=1),
    Cause.LEARNING_RATE_TOO_SMALL: Shown("rate-1e-4"),
    Cause.SCHEDULE_EXHAUSTED: Shown("decayed-every-update"),
    Cause.GRADIENT_CLIPPING: Shown("clipped-to-nothing"),
    Cause.ILL_CONDITIONED_VALLEY: Shown("banana-valley"),
    Cause.GRADIENT_NOISE_FLOOR: Shown("one-sample-batches"),
    Cause.OVER_REGULARIZED: Shown("weight-decay-1"),
    Cause.MODEL_FLOOR: Shown("line-for-circles"),
}
"""The causes that are shown on a run; the last one on the page of those that are none."""

PAGES: Final = {
    cause: "nothing-wrong"
    if cause in (Cause.PROGRESSING, Cause.MODEL_FLOOR, Cause.UNDECIDED)
    else str(cause)
    for cause in Cause
}
"""The page of each cause, without its suffix."""


def main(names: list[str]) -> None:
    """Write the runs of these causes, or of all."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("no Chromium on this machine")
    torch.set_num_threads(1)  # on a busy machine two threads wait for each other
    chosen = [Cause(name) for name in names] or list(SHOWN)
    failed: list[str] = []
    with TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=SWITCHES)
        page = browser.new_page(
            viewport={"width": WIDTH, "height": 900},
            device_scale_factor=SCALE,
            color_scheme="light",
        )
        for cause in chosen:
            told = diagnosed(cause)
            if wrong := disagreement(cause, told):
                failed.append(wrong)
                continue
            report = Path(folder) / "report.html"
            unstick.save(told, report)
            page.goto(report.as_uri())
            page.wait_for_function("document.documentElement.dataset.drawn", timeout=60_000)
            _take(page, HERE / f"{PAGES[cause]}.png")
            _write(HERE / f"{PAGES[cause]}.md", "\n".join(_told(told, cause)))
        browser.close()
    if failed:
        sys.exit("\n".join(failed))


def stall_of(name: str) -> Stall:
    """The labelled stall of this name."""
    return next(stall for stall in all_stalls() if stall.name == name)


def diagnosed(cause: Cause) -> Diagnosis:
    """Train the stall that the page of a cause shows to where it stands, and diagnose it there."""
    stall, seed = stall_of(SHOWN[cause].stall), SHOWN[cause].seed
    run = stall.start(seed)
    if not stall.stalls(run):
        sys.exit(f"{stall.name} does not stall from seed {seed}; take another in SHOWN")
    return unstick.diagnose(
        run.problem,
        run.optimizer,
        batch_size=run.batch_size,
        history=run.history,
        scheduler=run.scheduler,
        clip_norm=run.clip_norm,
        seed=seed,
        pictures=False,
    )


def disagreement(cause: Cause, told: Diagnosis) -> str:
    """What forbids to show this diagnosis on the page of this cause; nothing where it fits."""
    shown = SHOWN[cause]
    named = [each.cause for each in told.causes]
    if told.cause == (shown.root or cause) and cause in named:
        return ""
    return f"{shown.stall}, seed {shown.seed}, is {', '.join(named)}; expected {shown.root or cause} first"


def _told(told: Diagnosis, cause: Cause) -> Iterator[str]:
    """The lines of the generated part."""
    stall = stall_of(SHOWN[cause].stall)
    yield f"`{stall.name}`, seed {SHOWN[cause].seed}. {stall.about} Source: {stall.source}."
    yield ""
    yield f"![The losses of {stall.name}, and what remedies reached from its end]({PAGES[cause]}.png)"
    yield ""
    yield "| fact | what is told |\n|---|---|"
    yield f"| cause | `{told.cause}` |"
    for reason in told.causes[0].reasons:
        yield f"| because | {_cell(reason)} |"
    if told.causes[1:]:
        others = ", ".join(
            f"`{other.cause}` {number(other.strength, 2)}" for other in told.causes[1:4]
        )
        yield f"| also | {others} |"
    trials = f", {told.trials_cost.gradients:,.0f} for trials" if told.trials else ""
    yield f"| gradients | {told.cost.gradients:,.0f} for evidence and verdict{trials} |"
    yield ""
    if told.trials:
        yield "| remedy | helped | loss before | after | going on instead |\n|---|---|---|---|---|"
        yield from map(_row, told.trials[:BEST])
        yield ""
        yield f"Tried: {len(told.trials)}, each on {len(told.trials[0].seeds)} seeds; losses are medians."
    for what, why in told.untried[:2] if not told.trials else ():
        yield f"Not tried: {what}, since {why}."
    if told.remedy is not None:
        yield f"\nThe code that goes with “{told.remedy.remedy}”:\n\n```text"
        yield from (_cut(line) for line in told.remedy.code.splitlines())
        yield "```"
    if refused := SHOWN[cause].refused:
        yield f"\n`{refused}` does not get as far; building its problem is refused: “{_refusal(refused)}”"
    yield f"\n`unstick gallery {stall.name} --no-healthy` trains and diagnoses it on your machine."


def _refusal(name: str) -> str:
    try:
        stall_of(name).start(0)
    except NonFinite as error:
        return " ".join(str(error).split())
    sys.exit(f"{name} was to be refused")


def _row(trial: Trial) -> str:
    before = number(trial.loss_before) if isfinite(trial.loss_before) else "not finite"
    ends = (trial.loss_after, _middle(trial.continue_losses))
    after, instead = (number(loss) if isfinite(loss) else "blew up" for loss in ends)
    helped = "yes" if trial.helped else "no"
    return f"| {_cell(trial.remedy)} | {helped} | {before} | {after} | {instead} |"


def _middle(losses: tuple[float, ...]) -> float:
    return sorted(loss if isfinite(loss) else float("inf") for loss in losses)[len(losses) // 2]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _cut(line: str) -> str:
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 2]} …"


def _write(path: Path, told: str) -> None:
    text = path.read_text(encoding="utf-8")
    if len(MARKS.findall(text)) != 1:
        sys.exit(f"{path} has no place for the run: two comments, as on the other pages")
    new = MARKS.sub(lambda found: f"{found[1]}\n{told}\n\n{found[2]}", text)
    path.write_text(new, encoding="utf-8", newline="\n")


def _take(page: Page, path: Path) -> None:
    """The losses of the run above the trials, without the words around them."""
    page.add_style_tag(content=BARE)
    page.evaluate(
        """async (heights) => {
            for (const section of document.querySelectorAll('main > section')) {
                for (const figure of section.querySelectorAll('figure.drawing')) {
                    const plot = figure.querySelector('.plot');
                    if (!(plot.id in heights)) { figure.remove(); continue; }
                    plot.style.height = `${heights[plot.id]}px`;
                    await Plotly.relayout(plot, {height: heights[plot.id]});
                }
                if (!section.querySelector('.plot')) section.remove();
            }
        }""",
        HEIGHTS,
    )
    figures = page.locator("figure.drawing")
    first: Any = figures.first.bounding_box()
    last: Any = figures.last.bounding_box()
    top, bottom = max(0, first["y"] - MARGIN), last["y"] + last["height"] + MARGIN
    clip: Any = {"x": 0, "y": top, "width": WIDTH, "height": bottom - top}
    page.screenshot(path=path, full_page=True, clip=clip)
    drawn = Image.open(path).convert("RGB")
    for count in COLORS:
        drawn.quantize(count, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size <= LARGEST:
            return
    sys.exit(f"{path} has {path.stat().st_size:,} bytes; expected at most {LARGEST:,}")


if __name__ == "__main__":
    main(sys.argv[1:])
