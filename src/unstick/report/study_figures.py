"""A study on paper: what was measured on the claim's own axes, the claim beside it, effects with intervals, raw values.

Answers: does the picture that is always drawn look like that here?
Does not answer: whether the claim holds; the study's rule does.
"""

import math
from collections.abc import Iterable, Sequence

from unstick.record import number
from unstick.report.figures import Figure, Table, Trace, amount, axis, figure_layout, label, numbers
from unstick.studies.frame.overview import Overview
from unstick.studies.frame.plan import Picture, Series
from unstick.studies.frame.result import StudyResult
from unstick.studies.frame.table import Row, Value

__all__ = [
    "batches_table",
    "effects_figure",
    "effects_table",
    "overview_table",
    "study_figures",
    "values_of_arms",
]

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
TAUGHT = (
    (
        "time",
        "an update faster, an epoch slower",
        "an update as fast in parallel, an epoch faster",
        "batch-time",
    ),
    ("gradient", "noisy", "stable", "noise-scale"),
    ("optimization", "better", "worse", "batch-accuracy"),
    ("generalization", "better", "worse", "small-vs-large"),
    ("minima", "flat", "sharp", "sharp-flat"),
)
"""What lecture notes say of small and large batches, and the study that measures it."""

MOST_ROWS = 400
FAINT = 0.55


def study_figures(told: StudyResult, *, within: bool = False) -> list[Figure]:
    """Each picture, and the shape that the claim has beside it; within a page of many, only the first picture."""
    figures: list[Figure] = []
    for picture in told.pictures[:1] if within else told.pictures:
        name = f"{told.name}-{picture.name}" if within else picture.name
        figures.append(_drawn(picture, picture.series, name, picture.title, picture.caption))
        if picture.claimed:
            caption = "A sketch of the claim, on the same axes; nothing in it was measured."
            figures.append(
                _drawn(picture, picture.claimed, f"{name}-claim", "What the claim says", caption)
            )
    return figures


def effects_figure(told: StudyResult) -> Figure | None:
    """Every effect with its interval, where all have one scale."""
    known = [one for one in told.effects if math.isfinite(one.low) and math.isfinite(one.high)]
    if len(known) < 2:
        return None
    names = [label(one.name) for one in known]
    trace: Trace = {
        "type": "scatter",
        "mode": "markers",
        "x": numbers([one.difference for one in known]),
        "y": names,
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": numbers([one.high - one.difference for one in known]),
            "arrayminus": numbers([one.difference - one.low for one in known]),
            "color": "@measured",
        },
        "marker": {"color": "@measured", "size": 9},
        "name": "effect",
        "hovertemplate": "%{y}: %{x:.5g}<extra></extra>",
    }
    layout = figure_layout(
        xaxis=axis("effect, with its interval", zeroline=True),
        yaxis=axis("", type="category", autorange="reversed"),
        showlegend=False,
    )
    caption = f"Intervals of {100 * known[0].confidence:.4g} % each. One that crosses zero shows no direction."
    return Figure(
        "effects", "The effects", caption, [trace], layout, tall=max(220, 90 + 34 * len(known))
    )


def effects_table(told: StudyResult) -> Table | None:
    """Every effect in numbers."""
    if not told.effects:
        return None
    rows = tuple(
        (
            one.name,
            amount(one.first),
            amount(one.second) if math.isfinite(one.second) else "",
            amount(one.difference),
            f"{amount(one.low)} to {amount(one.high)}",
            f"{one.count:,} {one.unit}",
        )
        for one in told.effects
    )
    return Table(("effect", "first", "second", "difference", "interval", "from"), rows)


def values_of_arms(told: StudyResult) -> Table | None:
    """Every raw number, one arm and seed a row; curves are in the JSON and the CSV."""
    names = [
        name
        for name in dict.fromkeys(name for row in told.rows for name in row.values)
        if any(not isinstance(row.values.get(name), tuple | None) for row in told.rows)
    ]
    rows = [_row(row, names) for row in told.rows[:MOST_ROWS]]
    return Table(("arm", "seed", *names, "seconds"), tuple(rows)) if rows else None


def overview_table(told: Overview) -> Table:
    """One claim a row."""
    rows = tuple(
        (one.name, str(one.verdict), f"{one.claim}.", one.said, f"{number(one.seconds, 3)} s")
        for one in told.results
    )
    return Table(("study", "verdict", "claim", "measured here", "took"), rows, wraps=True)


def batches_table(told: Overview) -> Table | None:
    """The table of small against large batches, as it is taught, with what was measured here beside each line."""
    known = {one.name: one for one in told.results}
    if not any(study in known for _, _, _, study in TAUGHT):
        return None
    rows = [
        (
            aspect,
            small,
            large,
            f"{known[study].verdict}. {known[study].said}" if study in known else "not run",
        )
        for aspect, small, large, study in TAUGHT
    ]
    header = ("", "small batch, as taught", "large batch, as taught", "measured here")
    return Table(header, tuple(rows), wraps=True)


def _row(row: Row, names: Iterable[str]) -> tuple[str, ...]:
    if row.failed:
        told = [row.failed, *("" for _ in list(names)[1:])]
    else:
        told = [_cell(row.values.get(name)) for name in names]
    return (row.arm, str(row.seed), *told, f"{row.seconds:.2f}")


def _cell(value: Value) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case str():
            return value
        case int():
            return f"{value:,}"
        case tuple():
            return f"{len(value)} values"
        case _:
            return amount(value)


def _drawn(
    picture: Picture, series: Sequence[Series], name: str, title: str, caption: str
) -> Figure:
    traces = [_trace(one, COLORS[at % len(COLORS)]) for at, one in enumerate(series)]
    words = any(isinstance(x, str) for one in series for x in one.x)
    x = axis(picture.x, **_scale(picture.log_x, [x for one in series for x in one.x]))
    y = axis(picture.y, **_scale(picture.log_y, [y for one in series for y in one.y]))
    if words:
        x |= {"type": "category"}
    bars = {"barmode": "group"} if any(one.kind == "bars" for one in series) else {}
    layout = figure_layout(xaxis=x, yaxis=y, showlegend=len(series) > 1, **bars)
    lost = sum(not math.isfinite(value) for one in series for value in one.y)
    if lost:
        caption += f" Not drawn: {lost} values that are not finite."
    if picture.log_y and any(value <= 0 for one in series for value in one.y):
        caption += " Values of 0 or less have no place on the logarithmic axis."
    return Figure(name, title, caption, traces, layout, wide=not picture.claimed, tall=420)


def _scale(logarithmic: bool, values: Sequence[float | str]) -> Trace:
    if not logarithmic:
        return {}
    known = [v for v in values if not isinstance(v, str) and math.isfinite(v) and v > 0]
    if not known:
        return {}
    decades = math.log10(max(known) / min(known))
    return (
        {"type": "log", "dtick": max(1, math.ceil(decades / 6))}
        if decades > 1.5
        else {"type": "log"}
    )


def _trace(one: Series, color: str) -> Trace:
    trace: Trace = {
        "x": [label(x) if isinstance(x, str) else x for x in one.x],
        "y": numbers(one.y),
        "name": label(one.name),
        "hovertemplate": f"{label(one.name)}<br>%{{x}}: %{{y:.5g}}<extra></extra>",
    }
    if one.low and one.high:
        trace["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": numbers([h - y for h, y in zip(one.high, one.y, strict=True)]),
            "arrayminus": numbers([y - lo for lo, y in zip(one.low, one.y, strict=True)]),
            "color": color,
            "thickness": 1.2,
            "width": 3,
        }
    if one.kind == "bars":
        return {**trace, "type": "bar", "marker": {"color": color}}
    many = len(one.x) > 60
    if one.kind == "points":
        marker = {"color": color, "size": 5 if many else 8, "opacity": FAINT if many else 1.0}
        return {**trace, "type": "scatter", "mode": "markers", "marker": marker}
    mode = "lines" if many else "lines+markers"
    line = {"color": color, "width": 2}
    return {
        **trace,
        "type": "scatter",
        "mode": mode,
        "line": line,
        "marker": {"color": color, "size": 6},
    }
