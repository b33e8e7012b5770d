"""The loss as a curve: along a direction, over a run, before and after the escape.

Answers: does the loss fall where the model of second order says it falls?
Does not answer: anything between two measured points; lines only join them.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from unstick.critical.escaping import Escape
from unstick.critical.taylor import Profile
from unstick.diagnosis.cause import HEALTHY
from unstick.diagnosis.course import Course
from unstick.diagnosis.diagnosing import Diagnosis, Pace
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
    unseen,
)
from unstick.report.training_figures import counting_axis, curve, finite, loss_axis, thinned
from unstick.studies.demo import Demonstration
from unstick.trace import RunTrace

__all__ = ["escape_figure", "history_figure", "line_figures", "run_figure"]

HEADROOM = 4.0
"""Lines are cut above the point by this many times the deepest measured decrease."""

FELL = 2.0
"""A loss that was this many times its last did not stand."""


def line_figures(
    lines: Sequence[Profile], escape: Escape | None, *, noise: float = 0.0
) -> list[Figure]:
    """The loss along each direction, measured and predicted, on one vertical scale; a fall within ``noise`` is none."""
    lines = [line for line in lines if bool(torch.isfinite(line.losses).any())]
    if not lines:
        return []
    window = _window([line.losses for line in lines], [_here(line) for line in lines])
    return [
        _line_figure(
            line,
            f"line-{at + 1}",
            window,
            _step_along(line, escape),
            noise=noise,
            shared=len(lines) > 1,
        )
        for at, line in enumerate(lines)
    ]


def escape_figure(escape: Escape) -> Figure:
    """Loss before and after, predicted against observed."""
    observed = escape.loss_before - escape.loss_after
    kept = f"falls by {amount(observed)}" if escape.moved else "stays: no step was taken"
    share = (
        f", {observed / escape.predicted_decrease:.2f} times that"
        if escape.predicted_decrease > 0
        else ""
    )
    caption = (
        f"Both losses are measured on all the data. The Taylor model at this point predicted a decrease of "
        f"{amount(escape.predicted_decrease)}; {amount(observed)} was observed{share}. {_sentence(escape.outcome)}"
    )
    losses = _bars(
        ["after", "before"], [escape.loss_after, escape.loss_before], ["@escape", "@noise"], ""
    )
    decreases = _bars(
        ["observed", "predicted"],
        [observed, escape.predicted_decrease],
        ["@escape", "@predicted"],
        "2",
    )
    layout = figure_layout(
        showlegend=False,
        xaxis=axis("loss", anchor="y", rangemode="tozero"),
        yaxis=axis("", domain=[0.64, 1], showgrid=False),
        xaxis2=axis("decrease of the loss", anchor="y2", rangemode="tozero"),
        yaxis2=axis("", domain=[0, 0.34], anchor="x2", showgrid=False),
    )
    title = (
        f"The loss {kept}, from {amount(escape.loss_before)}"
        if escape.moved
        else f"The loss {kept}"
    )
    return Figure("escape", title, caption, [losses, decreases], layout, tall=340)


def history_figure(told: Diagnosis) -> Figure | None:
    """The losses of the run, with where they stand still, or what is expected next; nothing without a history."""
    course, pace = told.evidence.course, told.pace
    if course is None or not finite(course.curve):
        return None
    stands = None if told.cause in HEALTHY else _stands(course)
    levels = [] if pace is None else [pace.loss_now, pace.expected, pace.worry_above]
    vertical, scale = loss_axis([*course.curve, *levels])
    if not scale and 0 <= told.evidence.bound < min(course.curve):
        vertical["rangemode"] = "tozero"  # noise of a loss that stands is no movement
    width = course.finite / len(course.curve)
    name = "mean loss" if width > 1 else "loss"
    traces = [curve(_middles(course), course.curve, name, "@measured")]
    layout = figure_layout(showlegend=pace is not None or course.blew_up, yaxis=vertical)
    last, marked = course.updates, ""
    if course.blew_up:
        traces.append(_mark(course.finite + 1, course.curve[-1], "not finite", "x", "@down"))
    if stands is not None:
        layout |= _standing(stands, course.finite)
        marked = " Shaded: no later point is lower by more than a twentieth, or than twice the first one's noise."
    elif pace is not None:
        traces += _paced(pace, course.updates)
        layout["shapes"] = [_upright(course.updates)]
        last += pace.updates
        marked = (
            f" Right of the dotted line, the next {counted(pace.updates, 'update')}: what to expect if the loss falls half "
            "as fast as it did, and the mean above which that is no longer progress."
        )
    layout["xaxis"] = counting_axis("update", last)
    each = f"the mean of about {round(width)} updates" if width > 1 else "one update"
    caption = f"The losses that were given, a point {each}.{marked}{scale}"
    return Figure(
        "history", _history_title(course, stands, pace), caption, traces, layout, tall=340
    )


def run_figure(told: Demonstration) -> Figure:
    """The stalled run, the jump of the escape, and the run after it."""
    stalled, resumed, moved = told.stalled, told.resumed, told.moved
    last = stalled.updates[-1] if stalled.updates else 0
    shift = last if resumed.updates and resumed.updates[0] <= last else 0
    traces = [
        _run_trace(stalled, 0, f"stalled, accuracy {told.accuracy_stalled:.1%}", "@noise"),
        {
            "type": "scatter",
            "mode": "lines+markers",
            "x": [last, last],
            "y": numbers([moved.loss_before, moved.loss_after]),
            "name": f"escape: {amount(moved.loss_before)} → {amount(moved.loss_after)}",
            "line": {"color": "@predicted", "width": 3},
            "marker": {
                "symbol": ["circle", "triangle-down"],
                "size": [7, 12],
                "color": "@predicted",
            },
            "hovertemplate": "loss %{y:.5g}<extra>escape</extra>",
        },
        _run_trace(
            resumed, shift, f"after the escape, accuracy {told.accuracy_resumed:.1%}", "@escape"
        ),
    ]
    layout = figure_layout(
        xaxis=axis("update of the optimizer"), yaxis=axis("training loss", rangemode="tozero")
    )
    layout["shapes"] = [_upright(last)]
    caption = (
        f"The loss recorded at each update, not smoothed. At update {last:,} the escape moved the parameters by "
        f"{amount(moved.step)}; the same optimizer then went on."
        f"{thinned(max(len(stalled.loss), len(resumed.loss)))}{unseen(torch.tensor(stalled.loss + resumed.loss), 'update')}"
    )
    title = (
        f"Stuck at {amount(stalled.loss[-1] if stalled.loss else None)}, moved once, "
        f"then down to {amount(resumed.loss[-1] if resumed.loss else None)}"
    )
    return Figure("run", title, caption, traces, layout, tall=400)


def _middles(course: Course) -> list[float]:
    """The middle update of each part that the curve has a mean of."""
    whole, longer = divmod(course.finite, len(course.curve))
    sizes = [whole + (k < longer) for k in range(len(course.curve))]
    return [end - (size - 1) / 2 for end, size in zip(accumulate(sizes), sizes, strict=True)]


def _stands(course: Course) -> int | None:
    """The update from which the loss stands; nothing where it blew up, or fell since by what noise at first had hidden."""
    first = course.stands_from
    if first is None or course.blew_up:
        return None
    there = next(y for x, y in zip(_middles(course), course.curve, strict=True) if x >= first)
    return None if course.last > 0 and there > FELL * course.last else first


def _standing(first: int, last: int) -> Trace:
    """A shade from where the loss stands, and the words for it."""
    place = {"xref": "x", "yref": "paper", "x0": first, "x1": last, "y0": 0, "y1": 1}
    early = first < 0.6 * last
    words = {
        "text": "the loss stands",
        "x": first if early else last,
        "xanchor": "left" if early else "right",
        "y": 1.02,
        "yref": "paper",
        "yanchor": "bottom",
        "showarrow": False,
        "font": {"color": "@muted"},
    }
    shade = {"type": "rect", "fillcolor": "@zero", "line": {"width": 0}, "layer": "below", **place}
    margin = {"l": 64, "r": 16, "t": 36, "b": 52}
    return {"shapes": [shade], "annotations": [words], "margin": margin}


def _paced(pace: Pace, now: int) -> list[Trace]:
    """What is expected, and the level of worry."""
    then = now + pace.updates
    expected = curve([now, then], [pace.loss_now, pace.expected], "expected", "@escape")
    worry = curve([now, then], [pace.worry_above] * 2, "worry above", "@down", width=1.5)
    expected["line"] |= {"dash": "dash"}
    worry |= {"mode": "lines", "line": {**worry["line"], "dash": "dot"}}
    return [expected, worry]


def _history_title(course: Course, stands: int | None, pace: Pace | None) -> str:
    if course.blew_up:
        return f"The loss stopped being finite after update {course.finite:,}"
    if stands is not None:
        since = f"update {stands:,} on, or before" if stands > 1 else "the first update on"
        return f"The loss stands from {since}"
    if pace is not None:
        return f"The loss is {amount(pace.loss_now)}; {amount(pace.expected)} is expected after {pace.updates:,} more updates"
    return f"The loss of {counted(course.updates, 'update')}"


def _step_along(line: Profile, escape: Escape | None) -> float | None:
    """Where the escape went on this line; ``None`` when it did not go along it."""
    along = escape is not None and escape.moved and "escape" in line.name
    return escape.step if along and escape is not None else None


def _line_figure(
    line: Profile, name: str, window: Window, step: float | None, *, noise: float, shared: bool
) -> Figure:
    here, best = _here(line), _best(line)
    shown = label(line.name)
    traces = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": numbers(line.steps),
            "y": numbers(window.near(line.predicted)),
            "name": "predicted",
            "line": {"color": "@predicted", "width": 2, "dash": "dash"},
            "hovertemplate": "predicted %{y:.5g}<extra></extra>",
        },
        {
            "type": "scatter",
            "mode": "lines+markers",
            "x": numbers(line.steps),
            "y": numbers(window.near(line.losses)),
            "name": "measured",
            "line": {"color": "@measured", "width": 1.2},
            "marker": {"color": "@measured", "size": 6},
            "hovertemplate": "step %{x:.4g}<br>measured %{y:.6g}<extra></extra>",
        },
        _mark(0.0, here, "this point", "circle", "@ink"),
    ]
    falls = here - best > 2 * noise
    if falls:
        traces.append(_mark(line.best_step, best, "lowest", "star", "@escape"))
    layout = figure_layout(
        xaxis=axis(f"distance along the {shown}"), yaxis=axis("loss", range=window.padded())
    )
    if step is not None:
        layout["shapes"] = [_upright(step)]
    fall = here - best
    title = f"Along the {line.name} the loss " + (
        f"falls by {amount(fall)}" if falls else "is nowhere lower"
    )
    caption = (
        f"Dashed: what the slope {amount(line.slope)} and the curvature {amount(line.curvature)} at this point predict. "
        f"{_clipping(line, window)}{' Both lines share this scale.' if shared else ''}"
        f"{f' Differences up to {amount(2 * noise)} are noise.' if noise and not falls else ''}"
        f"{'' if step is None else f' Dotted: the step that the escape took, {amount(step)}.'}"
        f"{unseen(line.losses, 'measured point', _where_not_finite(line))}"
    )
    return Figure(name, title, caption, traces, layout, wide=not shared, tall=380)


def _window(losses: Sequence[Tensor], here: Sequence[float]) -> Window:
    """From the lowest measured loss to a headroom above the point; never wider than what was measured."""
    finite = torch.cat([values[torch.isfinite(values)].double() for values in losses])
    low, top = float(finite.min()), float(finite.max())
    depth = max(here) - low
    high = min(top, max(here) + HEADROOM * depth) if depth > 0 else top
    return Window(low, high, int((finite > high).sum()), top)


def _clipping(line: Profile, window: Window) -> str:
    """What the vertical scale leaves out of this line."""
    finite = line.losses[torch.isfinite(line.losses)]
    above = int((finite > window.high).sum())
    measured = (
        f"{counted(above, 'measured point')} above (up to {amount(float(finite.max()))})"
        if above
        else ""
    )
    beyond = (line.predicted > window.high) | (line.predicted < window.low)
    predicted = "the prediction where it leaves the scale" if bool(beyond.any()) else ""
    cut = " and ".join(filter(None, (measured, predicted)))
    return (
        f"The vertical scale fits the measured losses and cuts off {cut}."
        if cut
        else "Nothing is cut off."
    )


def _where_not_finite(line: Profile) -> str:
    steps = line.steps[~torch.isfinite(line.losses)].tolist()
    more = ", …" if len(steps) > 8 else ""
    return f", at {', '.join(amount(step) for step in steps[:8])}{more}"


def _here(line: Profile) -> float:
    return float(line.losses[int(line.steps.abs().argmin())])


def _best(line: Profile) -> float:
    return float(line.losses[int((line.steps - line.best_step).abs().argmin())])


def _mark(x: float, y: float, name: str, symbol: str, color: str) -> Trace:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": numbers([x]),
        "y": numbers([y]),
        "name": name,
        "marker": {"symbol": symbol, "size": 14 if symbol == "star" else 11, "color": color},
        "hovertemplate": f"{name}<br>%{{x:.4g}}, loss %{{y:.6g}}<extra></extra>",
    }


def _bars(names: list[str], values: list[float], colors: list[str], place: str) -> Trace:
    return {
        "type": "bar",
        "orientation": "h",
        "y": names,
        "x": numbers(values),
        "xaxis": f"x{place}",
        "yaxis": f"y{place}",
        "text": [amount(value) for value in values],
        "textposition": "auto",
        "cliponaxis": False,
        "marker": {"color": colors},
        "hovertemplate": "%{y}: %{text}<extra></extra>",
    }


def _run_trace(run: RunTrace, shift: int, name: str, color: str) -> Trace:
    return curve([update + shift for update in run.updates], run.loss, name, color)


def _upright(x: float) -> Trace:
    line = {"color": "@predicted", "width": 1, "dash": "dot"}
    return {
        "type": "line",
        "xref": "x",
        "yref": "paper",
        "x0": x,
        "x1": x,
        "y0": 0,
        "y1": 1,
        "line": line,
    }


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}" if text else ""
