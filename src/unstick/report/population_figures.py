"""Many trainings beside one another: their courses, where they ended, and what their average is worth.

Answers: what does a knob do to a training, and how far do seeds alone scatter?
Does not answer: whether a difference is more than chance; that takes a study.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch

from unstick.record import number
from unstick.report.figures import (
    Figure,
    Trace,
    Window,
    amount,
    axis,
    counted,
    figure_layout,
    label,
    numbers,
)
from unstick.report.knobs import (
    LISTED,
    Knob,
    knob_axis,
    knobs_of,
    member_told,
    reached,
    written,
)
from unstick.report.training_figures import (
    DRAWN,
    batches_of,
    counting_axis,
    curve,
    finite,
    loss_axis,
    means,
    thinned,
)
from unstick.training.averaging import Swapped
from unstick.training.loop import Trained
from unstick.training.population import Population

__all__ = ["population_figures", "swap_figures"]

SINGLE = 40
"""Most members that are drawn each for itself; of more, the median and a band."""

BAND = (0.1, 0.5, 0.9)
"""Quantiles of the members: one edge of a band, its middle, the other edge."""

CROWD = 5
"""Fewer members than this have no band of their own."""

POINTS = 200
"""Means along a training that is too short for means over epochs."""


@dataclass(frozen=True, slots=True)
class Course:
    """What is drawn of one member."""

    x: list[float]
    y: list[float]
    end: float  # of the training, in units of x
    reached: bool  # False: its loss ended inf or nan


def population_figures(told: Population, *, prefix: str = "") -> tuple[Figure, ...]:
    """The courses of all members, and what a numeric knob did to their ends; nothing where no loss is finite."""
    knobs = knobs_of(told)
    figures = (
        _courses_figure(told, knobs, f"{prefix}members"),
        _ends_figure(told, knobs, f"{prefix}ends"),
    )
    return tuple(figure for figure in figures if figure is not None)


def swap_figures(told: Swapped) -> tuple[Figure, ...]:
    """The loss, and where there is one the accuracy, before the workers went apart, of each, and of their average."""
    scores = (told.before, *told.apart, told.averaged)
    accuracies = [score.accuracy for score in scores]
    figures = [_phases_figure(told, "loss", [score.loss for score in scores])]
    if finite(accuracies):
        figures.append(_phases_figure(told, "accuracy", accuracies))
    return tuple(figures)


def _courses_figure(told: Population, knobs: Sequence[Knob], name: str) -> Figure | None:
    courses, unit, what = _courses(told.members)
    staying = [value for course in courses if course.reached for value in finite(course.y)]
    shown = staying or [value for course in courses for value in finite(course.y)]
    if not shown:
        return None
    left = [k for k, course in enumerate(courses) if not course.reached]
    vertical, scale = loss_axis(shown)
    if left and staying:  # a line that runs away would flatten all others
        log = vertical.get("type") == "log"
        vertical["range"] = _range(shown, log=log)
        if not log:
            window = Window(min(shown), max(shown))
            courses = [_placed(course, window) for course in courses]
    single = len(courses) <= SINGLE
    knob = _coloring(knobs, least=1 if single else CROWD)
    if single:
        traces, drawn = _lines(courses, knob, knobs, unit)
    else:
        traces, drawn = _bands(courses, knob, unit)
    gone = ""
    if left:
        traces.append(_crosses([courses[k].end for k in left], max(shown), left, knobs))
        gone = (
            f" Crosses: {counted(len(left), 'member')} whose loss was no longer finite, where that was seen"
            f"{', at the height of the highest other loss; the scale fits the others' if staying else ''}."
        )
    others = [other.name for other in knobs if other is not knob]
    too = " too" if knob is not None else ""
    also = (
        f" Members differ in {' and '.join(others)}{too}; the color does not show it."
        if others
        else ""
    )
    horizontal = counting_axis(unit, max(course.end for course in courses))
    layout = figure_layout(xaxis=horizontal, yaxis=vertical)
    if knob is not None:
        layout["legend"]["title"] = _legend_title(knob)
    by = f", by {knob.name}" if knob is not None else ""
    title = f"{what} of {counted(len(courses), 'member')}{by}"
    return Figure(name, title, f"{drawn}{also}{gone}{scale}", traces, layout, tall=420)


def _courses(members: Sequence[Trained]) -> tuple[list[Course], str, str]:
    """The mean losses of each member, over epochs where there are some; the unit of the axis; what is drawn."""
    ended = [reached(member) is not None for member in members]
    counts = [len(member.trace.loss) for member in members]
    widths = [batches_of(member) for member in members]
    epochs = [n // width for n, width, end in zip(counts, widths, ended, strict=True) if end]
    if min(epochs, default=0) >= 2:
        unit, what, steps = "epoch", "Mean training loss over each epoch", [1] * len(members)
    else:
        width = max(1, math.ceil(max(counts) / POINTS))
        of = f"over every {width} updates" if width > 1 else "of every update"
        unit, what = "update", f"{'Mean training' if width > 1 else 'Training'} loss {of}"
        widths = steps = [width] * len(members)
    courses: list[Course] = []
    for member, width, step, count, end in zip(members, widths, steps, counts, ended, strict=True):
        y = means(member, width)
        x = [float(step * (k + 1)) for k in range(len(y))]
        courses.append(Course(x, y, step * count / width, end))
    return courses, unit, what


def _coloring(knobs: Sequence[Knob], *, least: int) -> Knob | None:
    """The knob that colors tell: the first, unless that is the seed of many or too few members share its values."""
    if not knobs:
        return None
    knob = knobs[0]
    fewest = min(knob.values.count(value) for value in knob.colors)
    crowded = len(knob.colors) > LISTED and (knob.setting == "seed" or least > 1)
    return None if crowded or fewest < least else knob


def _legend_title(knob: Knob) -> Trace:
    return {"text": knob.name, "side": "top", "font": {"size": 12}}


def _placed(course: Course, window: Window) -> Course:
    return replace(course, y=window.near(torch.tensor(course.y, dtype=torch.float64)).tolist())


def _most(courses: Sequence[Course]) -> int:
    """Most values of each line, so that all together stay a page that opens at once."""
    return max(100, 4 * DRAWN // len(courses))


def _lines(
    courses: Sequence[Course], knob: Knob | None, knobs: Sequence[Knob], unit: str
) -> tuple[list[Trace], str]:
    """A line for each member; the first of each value stands for it in the legend."""
    ranks = {} if knob is None else {value: rank for rank, value in enumerate(knob.colors)}
    places = sorted(range(len(courses)), key=lambda k: 0 if knob is None else ranks[knob.values[k]])
    traces: list[Trace] = []
    unseen = [] if knob is None else list(knob.legend)
    for k in places:
        color = "@measured" if knob is None else knob.colors[knob.values[k]]
        value = None if knob is None else knob.values[k]
        line = curve(
            courses[k].x,
            courses[k].y,
            "loss" if knob is None else label(written(value)),
            color,
            width=1.6,
            most=_most(courses),
            showlegend=value in unseen,
            legendgroup=str(value),
            hovertemplate=f"{unit} %{{x:,}}<br>loss %{{y:.5g}}<extra>{member_told(k, knobs)}</extra>",
        )
        traces.append(line)
        if value in unseen:
            unseen.remove(value)
    longest = max(len(course.x) for course in courses)
    some = ""
    if knob is not None and len(knob.legend) < len(knob.colors):
        some = f" The legend names {len(knob.legend)} of {len(knob.colors)} values; colors between them go in order."
    thin = thinned(longest, unit=unit, most=_most(courses))
    return traces, f"A line for each member.{some}{thin}"


def _bands(courses: Sequence[Course], knob: Knob | None, unit: str) -> tuple[list[Trace], str]:
    """The median of each value's members, or of all, and a band around it."""
    groups: dict[Any, list[Course]] = {}
    for k, course in enumerate(courses):
        groups.setdefault(None if knob is None else knob.values[k], []).append(course)
    traces: list[Trace] = []
    longest = max(len(course.x) for course in courses)
    step = math.ceil(longest / _most(courses))
    for value in (None,) if knob is None else knob.colors:
        members = groups[value]
        x = max((course.x for course in members), key=len)[::step]
        table = torch.full((len(members), len(x)), math.nan, dtype=torch.float64)
        for row, course in zip(table, members, strict=True):
            y = torch.tensor(course.y[::step], dtype=torch.float64)
            row[: len(y)] = torch.where(torch.isfinite(y), y, math.nan)
        levels = table.nanquantile(torch.tensor(BAND, dtype=torch.float64), dim=0)
        kept = [at for at in range(len(x)) if math.isfinite(float(levels[1, at]))]
        x, (low, middle, high) = [x[at] for at in kept], levels[:, kept].tolist()
        color = "@measured" if knob is None else knob.colors[value]
        name = "median" if knob is None else label(written(value))
        traces.append(_shade(x, low, high, color, name))
        line = curve(x, middle, name, color, width=2.5, most=len(x), unit=unit, legendgroup=name)
        traces.append(line)
    every = f" Every {step}th {unit} is drawn." if step > 1 else ""
    whose = "all" if knob is None else "each value's"
    low, _, high = BAND
    return traces, (
        f"Lines: the median of {whose} members, as long as they last. Bands: from their {low:.0%} to their {high:.0%} "
        f"quantile.{every}"
    )


def _shade(x: list[float], low: list[float], high: list[float], color: str, name: str) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [*x, *x[::-1]],
        "y": numbers([*high, *low[::-1]]),
        "name": name,
        "legendgroup": name,
        "showlegend": False,
        "fill": "toself",
        "fillcolor": color,
        "line": {"color": color, "width": 0},
        "opacity": 0.18,
        "hoverinfo": "skip",
    }


def _crosses(
    x: Sequence[float], height: float, places: Sequence[int], knobs: Sequence[Knob]
) -> Trace:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": numbers(x),
        "y": numbers([height] * len(x)),
        "name": "diverged",
        "text": [member_told(k, knobs) for k in places],
        "marker": {"symbol": "x", "size": 9, "color": "@down"},
        "cliponaxis": False,
        "hovertemplate": "%{text}<br>the loss is inf or nan<extra></extra>",
    }


def _ends_figure(told: Population, knobs: Sequence[Knob], name: str) -> Figure | None:
    """The final loss against the first numeric knob; nothing where none varies or no loss is finite."""
    named = [knob for knob in knobs if knob.setting != "seed"]
    knob = next((knob for knob in named if knob.numeric), None)
    ends = {k: end for k, m in enumerate(told.members) if (end := reached(m)) is not None}
    if knob is None or not ends:
        return None
    others = [other for other in named if other is not knob]
    by = others[0] if len(others) == 1 and len(others[0].colors) <= LISTED else None
    vertical, scale = loss_axis(ends.values(), "final loss")
    traces: list[Trace] = []
    for value in (None,) if by is None else by.colors:
        members = {k: end for k, end in ends.items() if by is None or by.values[k] == value}
        color = "@measured" if by is None else by.colors[value]
        traces += _scatter(knob, members, color, "median" if by is None else label(written(value)))
    gone = ""
    if left := [k for k in range(len(told.members)) if k not in ends]:
        log = vertical.get("type") == "log"
        low, high = _range(list(ends.values()), log=log)
        vertical["range"] = [low, high + 0.08 * (high - low)]
        height = 10**high if log else high
        traces.append(_crosses([knob.values[k] for k in left], height, left, knobs))
        gone = f" Crosses at the top: {counted(len(left), 'member')} without a final loss."
    layout = figure_layout(xaxis=knob_axis(knob), yaxis=vertical)
    if by is not None:
        layout["legend"]["title"] = _legend_title(by)
    caption = (
        "The mean training loss over the last epoch, or over what there is of one: a dot for each member, a line through the medians of those that "
        f"have one.{gone}{scale}"
    )
    best = min(ends, key=lambda k: ends[k])
    at = written(knob.values[best])
    title = f"The lowest final loss, {amount(ends[best])}, is at {knob.name} {at}"
    return Figure(name, title, caption, traces, layout, tall=380)


def _scatter(knob: Knob, ends: dict[int, float], color: str, name: str) -> list[Trace]:
    """A dot for each member, and the line of medians."""
    groups: dict[float, list[float]] = {}
    for k in sorted(ends, key=lambda k: knob.values[k]):
        groups.setdefault(knob.values[k], []).append(ends[k])
    dots: Trace = {
        "type": "scatter",
        "mode": "markers",
        "x": numbers(knob.values[k] for k in ends),
        "y": numbers(ends.values()),
        "name": name,
        "legendgroup": name,
        "showlegend": False,
        "marker": {"color": color, "size": 7, "opacity": 0.55},
        "text": [f"member {k}" for k in ends],
        "hovertemplate": f"%{{text}}<br>{knob.name} %{{x}}<br>final loss %{{y:.5g}}<extra></extra>",
    }
    middle = curve(
        list(groups),
        [median(group) for group in groups.values()],
        name,
        color,
        legendgroup=name,
        mode="lines",
        hovertemplate=f"{knob.name} %{{x}}<br>median %{{y:.5g}}<extra></extra>",
    )
    return [dots, middle]


def _phases_figure(told: Swapped, what: str, values: Sequence[float | None]) -> Figure:
    names = ["before", *(f"worker {k}" for k in range(len(told.apart))), "average"]
    shares = what == "accuracy"

    def shown(value: float | None) -> str:
        return "–" if value is None else f"{value:.2%}" if shares else amount(number(value))

    known = finite(values)
    low, high = min(known, default=0.0), max(known, default=1.0)
    air = (high - low) or abs(high) or 1.0
    split = label(told.averaged.split)
    ticks = {"tickformat": ".2~%"} if shares else {}
    dots: Trace = {
        "type": "scatter",
        "mode": "markers+text",
        "x": numbers(math.nan if value is None else value for value in values),
        "y": names,
        "text": [f" {shown(value)}" for value in values],
        "textposition": "middle right",
        "cliponaxis": False,
        "marker": {"color": ["@noise", *["@measured"] * len(told.apart), "@escape"], "size": 11},
        "hovertemplate": "%{y}: %{text}<extra></extra>",
    }
    layout = figure_layout(
        showlegend=False,
        xaxis=axis(
            f"{split} {what}", range=[low - 0.08 * air, high + 0.4 * air], nticks=5, **ticks
        ),
        yaxis=axis("", type="category", categoryorder="array", categoryarray=names[::-1]),
    )
    lost = len(values) - len(known)
    unplaced = f" Not drawn: {counted(lost, 'score')} that are not finite." if lost else ""
    caption = (
        f"Taken on all {split} samples, in eval mode. Before: the model that the workers started from. The axis does "
        f"not begin at zero.{unplaced}"
    )
    title = f"{what.capitalize()} of the average: {shown(values[-1])}, before: {shown(values[0])}"
    tall = max(240, 110 + 26 * len(names))
    return Figure(f"swap-{what}", title, caption, [dots], layout, wide=False, tall=tall)


def _range(values: Sequence[float], *, log: bool) -> list[float]:
    """The ends of an axis that holds these values with a little air."""
    low, high = min(values), max(values)
    if log:
        low, high = math.log10(low), math.log10(high)
    air = 0.06 * (high - low) or 0.5 * abs(high) or 1.0
    return [low - air, high + air]
