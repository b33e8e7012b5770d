"""A study on paper: what was measured on the claim's own axes, the claim beside it, effects with intervals, raw values.

Answers: does the picture that is always drawn look like that here?
Does not answer: whether the claim holds; the study's rule does.
"""

import math
from collections.abc import Iterable

from unstick.report.figures import (
    Figure,
    Table,
    Trace,
    amount,
    axis,
    counted,
    figure_layout,
    label,
    numbers,
)
from unstick.report.study_series import drawn
from unstick.studies.frame.comparing import Verdict
from unstick.studies.frame.overview import Overview
from unstick.studies.frame.plan import Picture
from unstick.studies.frame.result import StudyResult
from unstick.studies.frame.table import Row, Value

__all__ = [
    "batches_table",
    "effects_figure",
    "effects_table",
    "overview_table",
    "study_figures",
    "values_of_arms",
    "verdicts_figure",
]

TAUGHT = (
    (
        "time",
        "an update faster,\nan epoch slower",
        "an update as fast in parallel, an epoch faster",
        "batch-time",
        "Epochs of small batches are slower",
    ),
    ("gradient", "noisy", "stable", "noise-scale", "The noise scale grows as the loss falls"),
    (
        "optimization",
        "better",
        "worse",
        "batch-accuracy",
        "In equal epochs, large batches fit and predict worse",
    ),
    (
        "generalization",
        "better",
        "worse",
        "small-vs-large",
        "Where both fit, large batches predict worse",
    ),
    ("minima", "flat", "sharp", "sharp-flat", "Large batches end in sharper, worse minima"),
)
"""What lecture notes say of small and large batches, the study that measures it, and what that asks."""

VERDICTS = {
    Verdict.SUPPORTED: ("@escape", "circle"),
    Verdict.INCONCLUSIVE: ("@noise", "diamond"),
    Verdict.CONTRADICTED: ("@down", "x"),
}
MOST_ROWS = 400


def study_figures(told: StudyResult, *, within: bool = False) -> list[Figure]:
    """Each picture, and the shape that the claim has beside it; within a page of many, only the first picture."""
    figures: list[Figure] = []
    for picture in told.pictures[:1] if within else told.pictures:
        name = f"{told.name}-{picture.key}" if within else picture.key
        figures.append(_figure(picture, name))
        if picture.claimed:
            figures.append(_figure(picture, name, sketched=True))
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


def verdicts_figure(told: Overview) -> Figure | None:
    """Every verdict at a glance, those of a kind together."""
    if not told.results:
        return None
    traces: list[Trace] = []
    for verdict, (color, symbol) in VERDICTS.items():
        names = [one.name for one in told.results if one.verdict == verdict]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [str(verdict)] * len(names),
                "y": [label(name) for name in names],
                "marker": {"color": color, "symbol": symbol, "size": 13},
                "name": str(verdict),
                "hovertemplate": "%{y}: %{x}<extra></extra>",
            }
        )
    listed = [name for trace in traces for name in trace["y"]]
    columns = {"type": "category", "categoryarray": [str(verdict) for verdict in VERDICTS]}
    layout = figure_layout(
        xaxis=axis("", side="top", range=[-0.5, 2.5], **columns),
        yaxis=axis("", type="category", categoryarray=listed, range=[len(listed) - 0.5, -0.5]),
        showlegend=False,
    )
    caption = "Each is decided by a rule that was fixed before anything was measured."
    tall = 80 + 24 * len(listed)
    return Figure("verdicts", "What became of each claim", caption, traces, layout, tall=tall)


def overview_table(told: Overview) -> Table:
    """One claim a row; what was found stands with its picture."""
    rows = tuple((one.name, str(one.verdict), f"{one.claim}.") for one in told.results)
    return Table(("study", "verdict", "claim"), rows, wraps=True)


def batches_table(told: Overview) -> Table | None:
    """The table of small against large batches, as it is taught, with what was measured here beside each line."""
    known = {one.name: one for one in told.results}
    if not any(study in known for *_, study, _ in TAUGHT):
        return None
    rows = [
        (
            aspect,
            small,
            large,
            f"{asked}: {known[study].verdict}. {known[study].said}"
            if study in known
            else "not run",
        )
        for aspect, small, large, study, asked in TAUGHT
    ]
    header = ("of a batch", "small, as taught", "large, as taught", "measured here")
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


def _figure(picture: Picture, name: str, *, sketched: bool = False) -> Figure:
    shown = drawn(picture, sketched=sketched)
    layout = figure_layout(**shown.layout)
    if sketched:
        caption = "A sketch of the claim, on the same axes; nothing in it was measured."
        return Figure(
            f"{name}-claim", "What the claim says", caption, shown.traces, layout, wide=False, tall=shown.tall
        )  # fmt: skip
    caption = picture.caption
    if shown.lost:
        caption += f" Not drawn: {counted(shown.lost, 'value')} that {'is' if shown.lost == 1 else 'are'} not finite."
    if shown.above:
        caption += f" Not drawn: {counted(shown.above, 'value')} above {amount(picture.top)}."
    if picture.log_y and any(value <= 0 for one in picture.series for value in one.y):
        caption += " Values of 0 or less have no place on the logarithmic axis."
    return Figure(
        name, picture.title, caption, shown.traces, layout, wide=not picture.claimed, tall=shown.tall
    )  # fmt: skip
