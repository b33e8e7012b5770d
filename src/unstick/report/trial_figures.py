"""Remedies that were tried from a checkpoint: their courses beside going on unchanged, and how each ended.

Answers: what did each remedy reach, at which cost, and what do these trials leave open?
Does not answer: which remedy to take (``story``), and how losses went between the means that a trial keeps.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from textwrap import wrap

from unstick.diagnosis.diagnosing import Diagnosis
from unstick.diagnosis.trials import MATTERS, POINTS, Trial
from unstick.record import number
from unstick.report.figures import (
    Figure,
    Table,
    Trace,
    Window,
    amount,
    axis,
    counted,
    figure_layout,
    label,
    numbers,
)
from unstick.report.training_figures import curve, finite, loss_axis

__all__ = [
    "ended_at",
    "helped_told",
    "trials_figure",
    "trials_lead",
    "trials_table",
    "untested_told",
]

BEST = 5
"""Trials that are drawn; the table has all."""

DECADES = 100.0
"""Losses of which the highest is more than so many times the lowest get a logarithmic axis."""

LETTERS = 34
"""Of a line of the legend: a phone is 45 letters wide."""

LOOKS = (
    ("@escape", "solid"),
    ("@measured", "dash"),
    ("@predicted", "dashdot"),
    ("@series-2", "longdash"),
    ("@series-4", "dot"),
)
"""Color and dash of the drawn trials, the best first: no two are told apart by color alone."""

ENDED = {"complete": "complete", "dropped": "dropped early", "interrupted": "interrupted"}


@dataclass(frozen=True, slots=True)
class _Way:
    """What is drawn of one remedy, or of going on."""

    name: str
    rows: Sequence[Sequence[float]]  # means of batch losses, one row a copy
    lived: Sequence[bool]  # by copy
    lengths: Sequence[float]  # gradients by copy
    color: str
    dash: str


def ended_at(losses: Sequence[float]) -> str:
    """The median of the seeds in words, where one that blew up counts as the highest."""
    middle = median(loss if math.isfinite(loss) else math.inf for loss in losses)
    return amount(middle) if math.isfinite(middle) else "blew up"


def trials_lead(told: Diagnosis) -> str:
    """What the trials are, in two sentences."""
    trials = told.trials
    many = counted(len(trials), "remedy", "remedies")
    seeds = counted(len(trials[0].seeds), "seed")
    return (
        f"{many}, tried on copies from this very checkpoint, on {seeds} beside going on unchanged. "
        "The model and its optimizer are as they were."
    )


def trials_figure(told: Diagnosis) -> Figure | None:
    """The courses of the best trials and of going on; nothing where no loss is finite."""
    ways = _ways(told.trials)
    lasting = [row for way in ways for row, lived in zip(way.rows, way.lived, strict=True) if lived]
    every = [row for way in ways for row in way.rows]
    shown = finite(value for row in lasting or every for value in row)
    if not shown:
        return None
    vertical, scale = loss_axis(shown, "batch loss", wide=DECADES)
    broken = len(lasting) < len(every)
    if broken:  # one that runs away would flatten all others
        vertical["range"] = _range(shown, log=vertical.get("type") == "log")
    window = Window(min(shown), max(shown))
    traces = [trace for k, way in enumerate(ways) for trace in _lines(way, window, str(k))]
    if broken:
        traces.append(_crosses(ways, window))
    drawn = len(ways) - 1
    which = f" Drawn: {drawn} of {len(told.trials)} remedies." if drawn < len(told.trials) else ""
    caption = (
        "Means of the batches' losses before each update, over what a copy took, so that batch sizes compare: thin a "
        "seed, thick their median. After a name: the median loss of all the data at the end. Where a line ends early, "
        f"its remedy was dropped.{which}{_broken_told(ways, lasted=bool(lasting))}{scale}"
    )
    across = axis("gradients that each copy took", rangemode="tozero", tickformat=",")
    layout = figure_layout(xaxis=across, yaxis=vertical)
    return Figure("trials", _title(told), caption, traces, layout, tall=440)


def trials_table(told: Diagnosis) -> Table | None:
    """Every trial, the best first; nothing where nothing was tried."""
    if not told.trials:
        return None
    header = (
        "remedy",
        "loss after",
        *("going on", "helped", "keeps", "length", "each seed", "what it changes"),
    )
    return Table(header, tuple(map(_row, told.trials)), wraps=True)


def helped_told(told: Diagnosis) -> str:
    """What the words of the table mean, as far as they occur in it."""
    broken = any(not finite(trial.continue_losses) for trial in told.trials)
    alone = " Where going on blew up on every seed: below the loss before." if broken else ""
    return (
        f"Losses are of all the data, without weight decay: the median of the seeds, then each; {amount(told.trials[0].loss_before)} "
        "before. Helped: the median is below every copy that went on as long, and below their median by more than these "
        f"deviate and by {MATTERS:.0%} of what is left of the loss.{alone} "
        "Keeps weights: what was learned stays. Keeps model: a checkpoint still fits."
    )


def untested_told(told: Diagnosis) -> str:
    """What these trials leave open, in sentences that are true of this record."""
    return " ".join(_untested(told))


def _untested(told: Diagnosis) -> Iterable[str]:
    trials = told.trials
    if not trials:
        return
    longest = max(trials, key=lambda trial: trial.gradients)
    course, run = told.evidence.course, ""
    if told.plan is not None and course is not None and not course.blew_up:
        run = f"; the run so far took {amount(number(told.plan.length, 3))}"
    yield (
        f"Copies were compared up to {amount(number(longest.gradients, 3))} gradients "
        f"({counted(longest.updates, 'update')}){run}. What comes later was not seen."
    )
    if told.evidence.missing:
        yield "Remedies were chosen without what stands under “What was not known”."
    if dropped := [trial.remedy for trial in trials if trial.outcome == "dropped"]:
        less = "it had" if len(dropped) == 1 else "they had"
        yield f"{len(dropped)} of {len(trials)} were dropped early: {less} less time to show something."
    if any(trial.outcome == "interrupted" for trial in trials):
        yield "The trials were interrupted before they were complete."
    if all(len(trial.curve) == 1 for trial in trials):
        yield "Seeds change nothing here: one copy of each stands for all."
    yield "No scheduler was stepped in the copies: rates stay what they are here, or what a remedy makes them."
    yield (
        "All losses are of the data that the problem holds; no validation data were looked at, so nothing is said about "
        "new samples."
    )
    if told.untried:
        yield "Not tried at all, and why:"


def _ways(trials: Sequence[Trial]) -> list[_Way]:
    """Going on, then the best trials that ended as they were meant to."""
    usual = _usual(trials)
    longest = max(trials, key=lambda trial: trial.gradients)
    rows, losses = longest.continue_curve, longest.continue_losses
    lengths = _lengths(rows, losses, longest.gradients, longest.gradients, usual)
    ways = [
        _Way(
            f"going on unchanged: {ended_at(losses)}",
            rows,
            _lived(rows, losses),
            lengths,
            "@noise",
            "solid",
        )
    ]
    for trial, (color, dash) in zip(_drawn(trials), LOOKS, strict=False):
        price = trial.gradients / max(1, trial.updates) if _other_batch(trial) else usual
        most = min(trial.updates * price, trial.gradients)
        losses = trial.losses_after
        lengths = _lengths(trial.curve, losses, trial.gradients, most, price)
        name = f"{trial.remedy}: {ended_at(losses)}"
        ways.append(_Way(name, trial.curve, _lived(trial.curve, losses), lengths, color, dash))
    return ways


def _drawn(trials: Sequence[Trial]) -> list[Trial]:
    """The best, but none that was interrupted on the way: its copies have unequal lengths, which are not known."""
    return [trial for trial in trials[:BEST] if not _cut(trial, trials)]


def _cut(trial: Trial, trials: Sequence[Trial]) -> bool:
    """Whether its copies made updates after the losses that are known: more than another's of the same length."""
    if trial.outcome != "interrupted" or _other_batch(trial):
        return False
    return any(
        other.gradients == trial.gradients and other.updates < trial.updates
        for other in trials
        if finite(other.losses_after) and not _other_batch(other)
    )


def _usual(trials: Sequence[Trial]) -> float:
    """Gradients of an update on batches of the run, as the trials tell."""
    known = [each for each in trials if not _other_batch(each) and not _cut(each, trials)] or trials
    lasting = [trial for trial in known if finite(trial.losses_after)] or known
    return min(trial.gradients / max(1, trial.updates) for trial in lasting)


def _other_batch(trial: Trial) -> bool:
    return "batch" in trial.key


def _lived(rows: Sequence[Sequence[float]], losses: Sequence[float]) -> list[bool]:
    return [math.isfinite(loss) for loss in losses[: len(rows)]]


def _lengths(
    rows: Sequence[Sequence[float]],
    losses: Sequence[float],
    whole: float,
    most: float,
    price: float,
) -> list[float]:
    """Gradients that each copy took; for one that blew up at most so many, which is exact where it made few updates."""
    return [
        whole if lives else min(most, len(row) * price) if len(row) < POINTS else most
        for row, lives in zip(rows, _lived(rows, losses), strict=True)
    ]


def _lines(way: _Way, window: Window, group: str) -> list[Trace]:
    """A thin line a copy, and the thick median where all lived."""
    own = {"color": way.color, "dash": way.dash}
    name = label("\n".join(wrap(way.name, LETTERS))).replace("\n", "<br>")
    several = len(way.rows) > 1
    traces: list[Trace] = []
    for at, (row, length) in enumerate(zip(way.rows, way.lengths, strict=True)):
        thick = not several
        line = _line(row, length, window, name, way.color, width=2.5 if thick else 0.8)
        line["line"] |= own if thick else {}
        named = thick or (at == 0 and not all(way.lived))
        traces.append({**line, "legendgroup": group, "showlegend": named})
    if several and all(way.lived):
        middle = [median(values) for values in zip(*way.rows, strict=True)]
        line = _line(middle, way.lengths[0], window, name, way.color, width=2.5)
        line["line"] |= own
        traces.append({**line, "legendgroup": group, "showlegend": True})
    return traces


def _line(
    row: Sequence[float], length: float, window: Window, name: str, color: str, *, width: float
) -> Trace:
    x = numbers(length * (k + 0.5) / len(row) for k in range(len(row)))
    line = curve(
        [0.0 if place is None else place for place in x],
        _near(row, window),
        name,
        color,
        width=width,
        unit="gradients",
    )
    return {**line, "mode": "lines" if len(row) > 1 else "markers"}


def _near(row: Sequence[float], window: Window) -> list[float]:
    """Losses that a browser can place: far outside, a line is upright anyway."""
    far = 1000 * (window.high - window.low)
    low, high = window.low - far, window.high + far
    return [min(max(loss, low), high) if math.isfinite(loss) else loss for loss in row]


def _crosses(ways: Sequence[_Way], window: Window) -> Trace:
    """Where copies blew up, at the height of the last loss that is in sight."""
    ends = [
        (way, row, length)
        for way in ways
        for row, lived, length in zip(way.rows, way.lived, way.lengths, strict=True)
        if not lived
    ]
    heights = [min([*finite(row)[-1:], window.high]) for _, row, _ in ends]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": numbers(length for _, _, length in ends),
        "y": numbers(heights),
        "name": "blew up",
        "text": [label(way.name) for way, _, _ in ends],
        "marker": {"symbol": "x", "size": 10, "color": "@down"},
        "hovertemplate": "%{text}<br>%{x:.4g} gradients at the latest<extra></extra>",
    }


def _broken_told(ways: Sequence[_Way], *, lasted: bool) -> str:
    lost = sum(not lived for way in ways for lived in way.lived)
    if not lost:
        return ""
    copies = counted(lost, "copy", "copies")
    fits = " The scale fits the others." if lasted else ""
    return f" ✕: {copies} blew up, there at the latest.{fits}"


def _range(values: Sequence[float], *, log: bool) -> list[float]:
    low, high = min(values), max(values)
    if log:
        low, high = math.log10(low), math.log10(high)
    return Window(low, high).padded()


def _title(told: Diagnosis) -> str:
    best = told.remedy
    if best is None:
        many = counted(len(told.trials), "remedy", "remedies")
        return f"None of {many} helped"
    went_on = ended_at(best.continue_losses)
    beside = went_on if went_on == "blew up" else f"reaches {went_on}"
    return f"“{best.remedy}” reaches {ended_at(best.losses_after)}, going on unchanged {beside}"


def _row(trial: Trial) -> tuple[str, ...]:
    keeps = [
        what
        for what, kept in (("weights", trial.keeps_weights), ("model", trial.keeps_model))
        if kept
    ]
    length = (
        counted(trial.updates, "update"),
        f"{amount(number(trial.gradients, 3))} gradients",
        ENDED.get(trial.outcome, trial.outcome),
    )
    return (
        trial.remedy,
        ended_at(trial.losses_after),
        ended_at(trial.continue_losses),
        "yes" if trial.helped else "no",
        "\n".join(keeps) or "neither",
        "\n".join(length).replace(" ", "\u00a0"),
        ",\u00a0".join(amount(x) if math.isfinite(x) else "✕" for x in trial.losses_after),
        trial.about,
    )
