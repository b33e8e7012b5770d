"""The series of a study's picture as traces, on axes that the claim's sketch shares.

Answers: which marks, colors and bands draw what was measured, and the sketch beside it?
Does not answer: what is told around it (``study_figures``).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from unstick.report.figures import Trace, label, numbers
from unstick.report.study_axes import axis_over
from unstick.studies.frame.plan import Picture, Series

__all__ = ["Drawn", "drawn"]

COLORS = (
    "@measured",
    "@predicted",
    "@escape",
    "@series-3",
    "@series-6",
    "@noise",
    "@series-0",
    "@series-5",
)
SYMBOLS = ("circle", "x", "diamond", "square")
DASHES = ("solid", "dash", "dot", "dashdot")
MANY = 60  # points of all clouds, from which they are small and faint
MARKED = 24  # points of a line, up to which each has a mark
BANDED = 12  # points of a line, from which its intervals are one band
FAINT, BAND = 0.7, 0.16
FEW = 5  # series; bands of more of them are fainter
LETTERS = 36  # of all words of an axis; more of them stand one below the other


@dataclass(frozen=True, slots=True)
class Drawn:
    """Traces and their layout."""

    traces: list[Trace]
    layout: Trace
    tall: int
    lost: int  # values that are not finite
    above: int  # values above the picture's top


def drawn(picture: Picture, *, sketched: bool) -> Drawn:
    """What was measured, or the sketch of the claim, with the range and the colors that both have."""
    colors = _colors(picture)
    kept = [_below(one, picture.top) for one in picture.series]
    both = [*kept, *picture.claimed]
    series = picture.claimed if sketched else kept
    words = any(isinstance(x, str) for one in both for x in one.x)
    wide = [
        x
        for one in both
        for x, y in zip(one.x, one.y, strict=True)
        if not isinstance(x, str) and math.isfinite(y)
    ]
    x = axis_over(picture.x, picture.log_x, wide)
    heights = [v for one in both for v in (*one.y, *one.low, *one.high)]
    y = axis_over(
        picture.y, picture.log_y, heights, grounded=any(one.kind == "bars" for one in both)
    )
    log, crowd = y.get("type") == "log", _crowd(series)
    traces = [
        trace for one in series for trace in _traces(one, colors[_group(one)], sketched, log, crowd)
    ]
    layout: Trace = {
        "xaxis": x,
        "yaxis": y,
        "showlegend": sketched or len(series) > 1,
        "barmode": "group",
    }
    tall = 420
    if words:
        layout["scattermode"] = "group"
        longest = sorted(both, key=lambda one: -len(one.x))  # the one that has all, in its order
        listed = list(dict.fromkeys(label(str(v)) for one in longest for v in one.x))
        last = len(listed) - 0.5
        x |= {"type": "category", "categoryorder": "array", "categoryarray": listed}
        x["range"] = [-0.5, last]
        if sum(map(len, listed)) > LETTERS:
            traces = [_lying(trace) for trace in traces]
            layout |= {"xaxis": y, "yaxis": {**x, "range": [last, -0.5]}}
            tall = max(300, 120 + 18 * len(listed) * max(2, len(picture.series)))
    if not sketched:
        above = sum(len(one.y) for one in picture.series) - sum(len(one.y) for one in kept)
        lost = sum(not math.isfinite(v) for one in kept for v in one.y)
        return Drawn(traces, layout, tall, lost, above)
    return Drawn(traces, layout, tall, 0, 0)


@dataclass(frozen=True, slots=True)
class _Crowd:
    """How much is in one picture."""

    series: int
    points: int  # of clouds


def _crowd(series: Sequence[Series]) -> _Crowd:
    return _Crowd(len(series), sum(len(one.x) for one in series if one.kind == "points"))


def _group(one: Series) -> str:
    return one.group or one.name


def _colors(picture: Picture) -> dict[str, str]:
    """One color a group, the same in the sketch; what only the sketch has begins with the color of words.

    A group such as ``@muted`` is the color of this name.
    """
    groups = list(dict.fromkeys(map(_group, picture.series)))
    others = [one for one in dict.fromkeys(map(_group, picture.claimed)) if one not in groups]
    order = (*COLORS[: len(groups)], "@muted", *COLORS[len(groups) :])
    return {
        group: group if group.startswith("@") else order[at % len(order)]
        for at, group in enumerate([*groups, *others])
    }


def _below(one: Series, top: float | None) -> Series:
    """Without values above the top; a band is cut at it."""
    if top is None:
        return one
    kept = [at for at, y in enumerate(one.y) if not y > top]
    part = {
        name: tuple(min(values[at], top) for at in kept)
        for name in ("low", "high")
        if (values := getattr(one, name))
    }
    return replace(one, x=tuple(one.x[at] for at in kept), y=tuple(one.y[at] for at in kept), **part)  # fmt: skip


def _traces(one: Series, color: str, sketched: bool, log: bool, crowd: _Crowd) -> list[Trace]:
    """The marks of one series, above its band where it has one."""
    ys = [y if y > 0 or not log else math.nan for y in one.y]
    trace: Trace = {
        "x": [label(x) if isinstance(x, str) else x for x in one.x],
        "y": numbers(ys),
        "name": label(one.name),
        "legendgroup": label(one.name),
        "hovertemplate": f"{label(one.name)}<br>%{{x}}: %{{y:.5g}}<extra></extra>",
    }
    if sketched:
        trace["hoverinfo"] = "skip"
        del trace["hovertemplate"]
    spread = bool(one.low and one.high)
    banded = spread and one.kind == "line" and len(one.x) > BANDED
    if spread and not banded:
        trace["error_y"] = _bars(one, "@ink" if one.kind == "bars" else color, log)
    trace |= _look(one, color, sketched, crowd)
    return [_band(one, color, log, crowd), trace] if banded else [trace]


def _look(one: Series, color: str, sketched: bool, crowd: _Crowd) -> Trace:
    """Full marks for what was measured; hollow and dashed ones for a sketch."""
    match one.kind:
        case "bars":
            hollow = {"color": "rgba(0,0,0,0)", "line": {"color": color, "width": 2}}
            return {"type": "bar", "marker": hollow if sketched else {"color": color}}
        case "points":
            many = crowd.points > MANY
            symbol = SYMBOLS[one.variant % len(SYMBOLS)] + ("-open" if sketched else "")
            marker = {"color": color, "symbol": symbol, "size": 6 if many else 9, "opacity": FAINT if many else 1.0}  # fmt: skip
            marker |= {"line": {"width": 2}} if sketched else {}
            return {"type": "scatter", "mode": "markers", "marker": marker}
        case _:
            dash = "dash" if sketched else DASHES[one.variant % len(DASHES)]
            marks = not sketched and len(one.x) <= MARKED
            return {
                "type": "scatter",
                "mode": "lines+markers" if marks else "lines",
                "line": {"color": color, "width": 2, "dash": dash},
                "marker": {"color": color, "size": 6},
            }


def _bars(one: Series, color: str, log: bool) -> Trace:
    """Error bars about each value; none where they leave a logarithmic axis."""
    known = [lo > 0 or not log for lo in one.low]
    up = [h - y if ok else math.nan for h, y, ok in zip(one.high, one.y, known, strict=True)]
    down = [y - lo if ok else math.nan for lo, y, ok in zip(one.low, one.y, known, strict=True)]
    return {
        "type": "data",
        "symmetric": False,
        "array": numbers(up),
        "arrayminus": numbers(down),
        "color": color,
        "thickness": 1.5,
        "width": 4,
    }


def _band(one: Series, color: str, log: bool, crowd: _Crowd) -> Trace:
    """The area between the lowest and the highest; a gap where one of them is not known."""
    rows = list(zip(one.x, one.low, one.high, strict=True))
    xs: list[float | str | None] = []
    ys: list[float | None] = []
    for known, piece in groupby(rows, lambda row: all(map(math.isfinite, row[1:])) and (row[1] > 0 or not log)):  # fmt: skip
        if known:
            part = list(piece)
            xs += [*(x for x, _, _ in part), *(x for x, _, _ in reversed(part)), None]
            ys += [*numbers(h for _, _, h in part), *numbers(lo for _, lo, _ in reversed(part)), None]  # fmt: skip
    return {
        "type": "scatter",
        "mode": "lines",
        "x": xs,
        "y": ys,
        "fill": "toself",
        "fillcolor": color,
        "line": {"width": 0, "color": color},
        "opacity": BAND if crowd.series <= FEW else BAND / 2,
        "hoverinfo": "skip",
        "showlegend": False,
        "legendgroup": label(one.name),
    }


def _lying(trace: Trace) -> Trace:
    """The same with both axes changed for one another."""
    turned = {**trace, "x": trace["y"], "y": trace["x"], "orientation": "h"}
    if "error_y" in trace:
        turned["error_x"] = turned.pop("error_y")
    if "hovertemplate" in trace:
        turned["hovertemplate"] = trace["hovertemplate"].replace("%{x}: %{y:.5g}", "%{y}: %{x:.5g}")
    return turned
