"""One training over its updates: the loss, the rate, the norms, the scores.

Answers: how did this training go, from its first update to where it ended?
Does not answer: why it went so (``diagnosis``); trainings beside one another (``population_figures``).

Of a long line the lowest and the highest of every few values are drawn, so that no spike is lost; captions say so.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import median

import torch
from torch import Tensor

from unstick.report.figures import (
    Figure,
    Trace,
    amount,
    axis,
    counted,
    figure_layout,
    label,
    log_axis,
    numbers,
    unseen,
)
from unstick.training.loop import Trained

__all__ = [
    "DRAWN",
    "SPLITS",
    "batches_of",
    "counting_axis",
    "curve",
    "finite",
    "loss_axis",
    "means",
    "thinned",
    "training_figures",
]

DRAWN = 4_000
"""Most values of one line that are drawn."""

FEW = 40
"""Lines of no more values than this have a dot at each."""

WIDE_RANGE = 20.0
"""Positive losses of which the highest is this many times the lowest get a logarithmic axis."""

STEEP = 8.0
"""Learning rates of which the highest is this many times the median get one: a cosine does not, steps do."""

SPLITS = {"training": "@ink", "validation": "@predicted", "test": "@escape"}
"""The color of scores by what they were taken on."""


def training_figures(told: Trained, *, prefix: str = "") -> tuple[Figure, ...]:
    """The loss, and whatever else changed and was recorded; nothing where no loss is finite.

    Args:
        told: The training.
        prefix: Of the figures' names, which are unique on a page.
    """
    loss = _loss_figure(told, f"{prefix}loss")
    if loss is None:
        return ()
    beside = [
        _accuracy_figure(told, f"{prefix}accuracy"),
        _rate_figure(told, f"{prefix}rate"),
        _norms_figure(told, f"{prefix}norms"),
    ]
    others = [figure for figure in beside if figure is not None]
    if len(others) % 2:  # the last one has nobody beside it
        others[-1] = replace(others[-1], wide=True)
    return (loss, *others)


def batches_of(told: Trained) -> int:
    """Updates in an epoch."""
    epoch = replace(told.recipe, epochs=1, updates=None, budget=None)
    return max(1, epoch.updates_for(told.samples))


def means(told: Trained, width: int) -> list[float]:
    """The mean loss over every ``width`` updates in turn, all samples counting alike; a rest is left out."""
    whole = len(told.trace.loss) // width
    losses = torch.tensor(told.trace.loss[: whole * width], dtype=torch.float64)
    sizes = [size or 1 for size in told.trace.batch_size[: whole * width]]
    weights = torch.tensor(sizes, dtype=torch.float64).reshape(whole, width)
    return ((losses.reshape(whole, width) * weights).sum(1) / weights.sum(1)).tolist()


def finite(values: Iterable[float | None]) -> list[float]:
    """The values that can be drawn."""
    return [value for value in values if value is not None and math.isfinite(value)]


def curve(
    x: Sequence[float],
    y: Sequence[float | None],
    name: str,
    color: str,
    *,
    width: float = 2.0,
    most: int = DRAWN,
    unit: str = "update",
    what: str = "loss",
    **more: object,
) -> Trace:
    """A line over updates, or over another ``unit``, of at most about ``most`` values."""
    known = torch.tensor([math.nan if value is None else value for value in y], dtype=torch.float64)
    rows = _rows(known, most)
    dots = {"mode": "lines+markers"} if len(rows) <= FEW else {"mode": "lines"}
    return {
        "type": "scatter",
        **dots,
        "x": [x[row] for row in rows],
        "y": numbers(known[rows]),
        "name": name,
        "line": {"color": color, "width": width},
        "marker": {"color": color, "size": 3 + 1.5 * width},
        "hovertemplate": f"{unit} %{{x:,}}<br>{what} %{{y:.5g}}<extra>{name}</extra>",
        **more,
    }


def thinned(count: int, *, unit: str = "update", most: int = DRAWN) -> str:
    """A sentence on the values of a line that are not drawn; empty when all are."""
    width = _bucket(count, most)
    return f" Of every {width:,} {unit}s the lowest and the highest are drawn." if width > 1 else ""


def counting_axis(unit: str, most: float) -> Trace:
    """An axis of updates or epochs, with ticks at whole ones."""
    return axis(unit, rangemode="tozero", tickformat=",", **({"dtick": 1} if most <= 5 else {}))


def loss_axis(
    values: Iterable[float | None], title: str = "loss", *, wide: float = WIDE_RANGE
) -> tuple[Trace, str]:
    """An axis on which these values can be read, and a sentence where it is not an ordinary one."""
    known = finite(values)
    low, high = min(known, default=0.0), max(known, default=0.0)
    if low > 0 and high >= wide * low:
        return log_axis(title, low, high), " The axis is logarithmic."
    return axis(title, rangemode="tozero" if 0 <= low <= 0.6 * high else "normal"), ""


def _loss_figure(told: Trained, name: str) -> Figure | None:
    trace, batches = told.trace, batches_of(told)
    if not finite(trace.loss):
        return None
    means_of_epochs = means(told, batches) if batches > 1 else []
    vertical, scale = loss_axis([*trace.loss, *(score.loss for score in told.scores)])
    each = ("@noise", 1.0) if means_of_epochs else ("@measured", 2.0)
    traces = [curve(trace.updates, trace.loss, "each update", each[0], width=each[1])]
    if means_of_epochs:
        middles = [
            trace.updates[k * batches] + (batches - 1) / 2 for k in range(len(means_of_epochs))
        ]
        mean = "mean over each epoch"
        traces.append(curve(middles, means_of_epochs, mean, "@measured", width=2.5))
    traces += _score_traces(told, "loss")
    traces += _broken(told)
    batch = "all samples" if batches == 1 else "each update's batch"
    middle = " The mean over an epoch stands at its middle." if means_of_epochs else ""
    scored = " Scores are taken in eval mode." if told.scores else ""
    caption = (
        f"The loss of {batch}, before the update, not smoothed.{middle}{scored}{scale}{thinned(len(trace.loss))}"
        f"{unseen(torch.tensor(trace.loss), 'update')}"
    )
    layout = figure_layout(xaxis=_update_axis(told), yaxis=vertical)
    return Figure(name, _title(told), caption, traces, layout, tall=400)


def _title(told: Trained) -> str:
    updates = counted(len(told.trace.loss), "update")
    final = told.final_loss
    if final is None or not math.isfinite(final):
        lowest = amount(min(finite(told.trace.loss)))
        return f"The loss is no longer finite at update {told.trace.updates[-1]:,}; it was {lowest} at its lowest"
    if len(told.trace.loss) == 1:
        return f"The loss is {amount(final)} before the one update"
    return f"The loss goes from {amount(told.first_loss)} to {amount(final)} in {updates}"


def _broken(told: Trained) -> list[Trace]:
    """A cross where the loss stopped being finite, at the height of the last one that was."""
    trace = told.trace
    if math.isfinite(trace.loss[-1]):
        return []
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "x": [trace.updates[-1]],
            "y": numbers(finite(trace.loss)[-1:]),
            "name": "not finite",
            "marker": {"symbol": "x", "size": 11, "color": "@down"},
            "hovertemplate": "update %{x:,}<br>the loss is inf or nan<extra></extra>",
        }
    ]


def _score_traces(told: Trained, what: str) -> list[Trace]:
    """The scores of each split, a marker each."""
    traces: list[Trace] = []
    for split in dict.fromkeys(score.split for score in told.scores):
        scores = [score for score in told.scores if score.split == split]
        values = [score.loss if what == "loss" else score.accuracy for score in scores]
        if not finite(values):
            continue
        color = SPLITS.get(split, "@muted")
        seen = curve([s.update for s in scores], values, label(split), color, what=what, width=1.5)
        traces.append(
            {
                **seen,
                "mode": "lines+markers" if len(scores) <= 2 * FEW else "lines",
                "marker": {"symbol": "diamond", "size": 8, "color": color},
            }
        )
    return traces


def _accuracy_figure(told: Trained, name: str) -> Figure | None:
    """The share of samples that are classified right; nothing where it was looked at only once."""
    splits = [score.split for score in told.scores if score.accuracy is not None]
    traces = _score_traces(told, "accuracy")
    if not traces or len(splits) == len(set(splits)):
        return None
    for trace in traces:
        trace["hovertemplate"] = f"update %{{x:,}}<br>%{{y:.2%}}<extra>{trace['name']}</extra>"
    last = told.last()
    ends = (
        ""
        if last is None or last.accuracy is None
        else f" ends at {last.accuracy:.1%} ({last.split})"
    )
    layout = figure_layout(xaxis=_update_axis(told), yaxis=axis("accuracy", tickformat=".2~%"))
    caption = "The share of samples whose largest output is the target's, in eval mode."
    return Figure(name, f"Accuracy{ends}", caption, traces, layout, wide=False)


def _rate_figure(told: Trained, name: str) -> Figure | None:
    """The learning rate; nothing where it stayed."""
    rates = finite(told.trace.learning_rate)
    if len(set(rates)) < 2:
        return None
    low, high = min(rates), max(rates)
    if low > 0 and high >= STEEP * median(rates):
        vertical, scale = (
            log_axis("learning rate", low, high),
            " The axis is logarithmic.",
        )
    else:
        vertical, scale = axis("learning rate", rangemode="tozero"), ""
    line = curve(
        told.trace.updates,
        told.trace.learning_rate,
        "learning rate",
        "@measured",
        what="learning rate",
    )
    line |= {"mode": "lines", "line": {**line["line"], "shape": "hv"}}
    caption = f"The rate of each update, after the schedule.{scale}{thinned(len(rates))}"
    title = f"The learning rate goes from {amount(rates[0])} to {amount(rates[-1])}"
    layout = figure_layout(xaxis=_update_axis(told), yaxis=vertical, showlegend=False)
    return Figure(name, title, caption, [line], layout, wide=False)


def _norms_figure(told: Trained, name: str) -> Figure | None:
    """How long gradient and update are; nothing where they were not recorded."""
    trace, recipe = told.trace, told.recipe
    known = {
        "gradient ‖g‖": (trace.gradient_norm, "@measured"),
        "update ‖Δθ‖": (trace.update_norm, "@predicted"),
    }
    lengths = {what: finite(values) for what, (values, _) in known.items()}
    drawn = [value for values in lengths.values() for value in values if value > 0]
    if not drawn:
        return None
    traces = [
        curve(
            trace.updates,
            [value if value else None for value in values],  # 0 has no place on this axis
            what,
            color,
            width=1.2,
            what="norm",
        )
        for what, (values, color) in known.items()
        if any(lengths[what])
    ]
    layout = figure_layout(xaxis=_update_axis(told), yaxis=log_axis("norm", min(drawn), max(drawn)))
    clipped = ""
    if recipe.clip_norm:
        layout["shapes"] = [_level(recipe.clip_norm)]
        clipped = f" Dotted: gradients longer than {amount(recipe.clip_norm)} were shortened to it."
    missing = sum(
        len(trace.loss) - sum(v > 0 for v in values) for values in lengths.values() if values
    )
    unplaced = (
        f" Not drawn: {counted(missing, 'norm')} that are 0 or not finite." if missing else ""
    )
    caption = (
        f"Gradients before clipping, updates as they were made. The axis is logarithmic.{clipped}"
        f"{thinned(len(trace.loss))}{unplaced}"
    )
    return Figure(name, "How long gradients and updates are", caption, traces, layout, wide=False)


def _level(y: float) -> Trace:
    line = {"color": "@noise", "width": 1.5, "dash": "dot"}
    return {
        "type": "line",
        "xref": "paper",
        "yref": "y",
        "x0": 0,
        "x1": 1,
        "y0": y,
        "y1": y,
        "line": line,
    }


def _update_axis(told: Trained) -> Trace:
    return counting_axis("update", len(told.trace.loss))


def _bucket(count: int, most: int) -> int:
    """How many values share the two that are drawn of them; 1 where all are."""
    return 1 if count <= most else math.ceil(2 * count / most)


def _rows(values: Tensor, most: int) -> list[int]:
    """Which values are drawn: the first, the last, and the lowest and the highest of each bucket."""
    count = len(values)
    width = _bucket(count, most)
    if width == 1:
        return list(range(count))
    padded = torch.full((math.ceil(count / width) * width,), math.nan, dtype=torch.float64)
    padded[:count] = values
    rows = torch.where(torch.isfinite(padded), padded, math.nan).reshape(-1, width)
    starts = torch.arange(0, len(padded), width)
    lowest = starts + torch.nan_to_num(rows, nan=math.inf).argmin(1)
    highest = starts + torch.nan_to_num(rows, nan=-math.inf).argmax(1)
    return sorted({0, count - 1, *lowest.tolist(), *highest.tolist()})
