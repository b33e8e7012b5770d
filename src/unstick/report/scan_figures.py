"""Lines through parameter space: along a direction, between checkpoints, and between the points of a chord.

Answers: what was measured from one point to another, and where does it lie above the straight line?
Does not answer: anything between two measured points; lines only join them.
"""

import math

import torch
from torch import Tensor

from unstick.diagnosis.trajectory import Trajectory
from unstick.landscape.convexity import Convexity, Violation
from unstick.landscape.interpolation import Interpolation
from unstick.landscape.line import Line
from unstick.landscape.plane import Plane
from unstick.landscape.rescaling import Rescaled
from unstick.landscape.sharpness import Comparison, Sharpness
from unstick.landscape.survey import Survey
from unstick.record import number
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
    unseen,
)
from unstick.report.plane_figures import contour, window_of

__all__ = [
    "ONLY_EQUAL",
    "comparison_table",
    "interpolation_figures",
    "rescaling_figure",
    "rescaling_table",
    "rewritten_figures",
    "scan_figures",
    "sharpness_table",
    "tests_table",
    "violation_figure",
    "violation_figures",
    "way_figure",
]

ONLY_EQUAL = (
    "Sharpness compares two points only at equal training loss and in one parametrization: the Hessian of cross-entropy shrinks "
    "with the loss, and the same function can be written with any λ max."
)


def scan_figures(line: Line) -> list[Figure]:
    """Loss, accuracy and gradient norm along one direction; nothing where no loss is finite."""
    if not bool(torch.isfinite(line.losses).any()):
        return []
    name = f"distance along the {label(line.x_name)}"
    unit = "" if line.x_unit == 1.0 else f" The direction as given is {amount(line.x_unit)} long."
    bent = "" if line.curvature is None else f" The curvature at 0 is {amount(line.curvature)}."
    caption = (
        f"Measured at {counted(len(line.x), 'point')}, not smoothed.{unit}{bent}"
        f"{unseen(line.losses, 'point')}"
    )
    here = float(line.losses[int(line.x.abs().argmin())])
    least = float(line.losses[torch.isfinite(line.losses)].min())
    title = (
        f"The loss falls by {amount(here - least)} along the {line.x_name}"
        if math.isfinite(here) and here > least
        else f"The loss is lowest here along the {line.x_name}"
    )
    curves = [("line", title, line.losses, "loss")]
    curves += _others(line.accuracies, line.gradient_norms)
    return [
        Figure(
            key,
            told,
            caption if key == "line" else "Along the same line.",
            [
                _measured(line.x, values, what, "@measured"),
                _spot(0.0, float(values[int(line.x.abs().argmin())])),
            ],
            figure_layout(xaxis=axis(name), yaxis=axis(what)),
            wide=len(curves) == 1,
        )
        for key, told, values, what in curves
    ]


def way_figure(told: Trajectory) -> Figure:
    """The loss of all data at the points that were kept of a training."""
    at = torch.tensor(told.updates, dtype=torch.float64)
    layout = figure_layout(xaxis=axis("update", rangemode="tozero"), yaxis=axis("loss"))
    caption = f"Of all data, at {counted(len(told.updates), 'point')} of the way.{unseen(told.losses, 'point')}"
    title = told.headline().rstrip(".")
    return Figure("way", title, caption, [_measured(at, told.losses, "loss", "@measured")], layout)


def interpolation_figures(found: Interpolation) -> list[Figure]:
    """The losses between two checkpoints beside the straight line through both, and what else was measured."""
    if not bool(torch.isfinite(found.losses).any()):
        return []
    t = found.fractions
    traces = [_measured(t, found.losses, "training data", "@measured")]
    if found.held_out_losses is not None:
        traces.append(_measured(t, found.held_out_losses, "held-out data", "@predicted"))
    ends = [float(found.losses[int((t - end).abs().argmin())]) for end in (0.0, 1.0)]
    if all(map(math.isfinite, ends)):
        straight: Trace = {
            "type": "scatter",
            "mode": "lines+markers",
            "x": [0.0, 1.0],
            "y": numbers(ends),
            "name": "both checkpoints, joined",
            "line": {"color": "@noise", "width": 1.5, "dash": "dash"},
            "marker": {"color": "@ink", "size": 9},
            "hovertemplate": "checkpoint, loss %{y:.6g}<extra></extra>",
        }
        traces.append(straight)
    caption = (
        f"Measured on the straight line from the first checkpoint (0) to the second (1), which are "
        f"{amount(_length(found))} apart; {_buffers(found)}. A barrier is no proof of two valleys: symmetries put equal functions "
        f"far apart.{unseen(found.losses, 'point')}"
    )
    figures = [
        Figure(
            "interpolation",
            found.headline().rstrip("."),
            caption,
            traces,
            figure_layout(xaxis=axis("fraction of the way"), yaxis=axis("loss")),
            wide=True,
        )
    ]
    for key, told, values, what in _others(found.accuracies, found.gradient_norms):
        more = [_measured(t, values, "training data", "@measured")]
        if what == "accuracy" and found.held_out_accuracies is not None:
            more.append(_measured(t, found.held_out_accuracies, "held-out data", "@predicted"))
        layout = figure_layout(xaxis=axis("fraction of the way"), yaxis=axis(what))
        figures.append(Figure(key, told, "On the same line.", more, layout, wide=False))
    return figures


def sharpness_table(found: Sharpness) -> Table:
    """Each measure, what it is worth, and how it was found."""
    top = found.lambda_max
    rows = [
        ("λ max", "not reached" if top is None else str(top), "largest eigenvalue of the Hessian")
    ]
    where = "all parameters" if found.subspace is None else f"{found.subspace} random directions"
    for epsilon, phi, start in zip(found.epsilons, found.phi, found.best_start, strict=True):
        value = "not reached" if phi is None else f"{number(phi)} %"
        how = f"lower bound on Keskar's φ over {where}; best start: {start or 'none'}"
        rows.append((f"φ, ε = {number(epsilon)}", value, how))
    adaptive = "not reached" if found.adaptive is None else number(found.adaptive)
    rows.append(
        (
            "adaptive",
            adaptive,
            f"lower bound on the rise within ‖δ/θ‖ ≤ {number(found.radius)}, each parameter in its own size",
        )
    )
    return Table(("measure", "value", "what it is"), tuple(rows), wraps=True)


def comparison_table(found: Comparison) -> Table:
    """The second point's measures over the first's."""
    rows = tuple(
        (name, number(ratio)) for name, ratio in zip(found.measures, found.ratios, strict=True)
    )
    return Table(("measure", "second over first"), rows)


def rescaling_figure(found: Rescaled) -> Figure | None:
    """How each measure changes while the function does not."""
    if len(found.alphas) < 2:
        return None
    measures = [
        ("λ max", found.lambda_max, "@series-1"),
        ("Keskar's φ", found.phi[:, 0], "@series-4"),
        ("adaptive sharpness", found.adaptive, "@series-7"),
        ("loss", found.losses, "@noise"),
    ]
    traces = [
        _measured(found.alphas, values / values[_plain(found)], name, color)
        for name, values, color in measures
        if bool(torch.isfinite(values).any()) and float(values[_plain(found)]) > 0
    ]
    spread = float(found.lambda_max.max() / found.lambda_max.min())
    return Figure(
        "rescaling",
        f"One function, and λ max changes by a factor of {amount(spread)}",
        f"The layer {found.first} is multiplied by α and the layer {found.second} divided by it: the outputs stay. Each measure is "
        f"drawn over its value at α = {amount(float(found.alphas[_plain(found)]))}; a measure that is flat here does not depend on "
        "how the function is written.",
        traces,
        figure_layout(
            xaxis=axis("α", type="log"),
            yaxis=axis("measure / its value at α nearest 1", type="log"),
        ),
    )


def rewritten_figures(told: Survey) -> list[Figure]:
    """The planes of one function written in several ways: a button for each α."""
    if told.rescaled is None or not told.rescaled_plain:
        return []
    alphas = [float(alpha) for alpha in told.rescaled.alphas]
    return [
        _rewritten(
            "rescaled-plain",
            "Along plain random directions the picture changes with α",
            "The same distances in parameter space at every α: how wide the valley looks is how the function is written.",
            told.rescaled_plain,
            alphas,
            relative=False,
        ),
        _rewritten(
            "rescaled-normalized",
            "Along filter-normalized directions it stays",
            "The same directions, each filter as long as the parameters' own; axes in those lengths.",
            told.rescaled_normalized,
            alphas,
            relative=True,
        ),
    ]


def _rewritten(
    name: str,
    title: str,
    caption: str,
    planes: tuple[Plane, ...],
    alphas: list[float],
    *,
    relative: bool,
) -> Figure:
    middle = min(range(len(alphas)), key=lambda k: abs(math.log(alphas[k])))
    order = [middle, *(k for k in range(len(alphas)) if k != middle)]
    window = window_of(planes[middle])
    traces: list[Trace] = []
    for k in order:
        trace = contour(planes[k], window)
        if relative:
            trace |= {
                "x": numbers(planes[k].x / planes[k].x_unit),
                "y": numbers(planes[k].y / planes[k].y_unit),
            }
        traces.append(trace)
    choices = [{"name": f"α = {amount(alphas[k])}", "shows": [at]} for at, k in enumerate(order)]
    unit = "in the direction's own length" if relative else "distance"
    layout = figure_layout(
        xaxis=axis(f"random direction 1, {unit}"),
        yaxis=axis(f"random direction 2, {unit}"),
        showlegend=False,
        meta={"choices": choices},
    )
    told = f"{caption} Colors are those of α = {amount(alphas[middle])} throughout and end at {amount(window.high)}."
    return Figure(name, title, told, traces, layout, wide=False, tall=440)


def rescaling_table(found: Rescaled) -> Table:
    """One α a row."""
    rows = tuple(
        (
            amount(float(found.alphas[k])),
            amount(float(found.losses[k])),
            amount(float(found.lambda_max[k])),
            " · ".join(f"{amount(x)} %" for x in found.phi[k].tolist()),
            amount(float(found.adaptive[k])),
            amount(float(found.output_changes[k])),
        )
        for k in range(len(found.alphas))
    )
    return Table(("α", "loss", "λ max", "φ", "adaptive", "outputs change by"), rows)


def tests_table(found: Convexity) -> Table:
    """How often each test was made, and what it found."""
    rows = tuple(
        (
            test.kind,
            f"{test.done} of {test.planned}",
            str(test.broken),
            str(test.unconfirmed),
        )
        for test in found.tests
    )
    return Table(
        ("test", "made", "violations proved", "by derivatives only, not in the loss"), rows
    )


def violation_figures(found: Convexity) -> list[Figure]:
    """The three points of each proof: a convex function lies nowhere above its chord."""
    return [violation_figure(one) for one in found.violations]


def violation_figure(one: Violation) -> Figure:
    """One proof."""
    at = [0.0, one.fraction, 1.0]
    first, middle, second = one.losses
    chord = (1 - one.fraction) * first + one.fraction * second
    traces: list[Trace] = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "x": [0.0, 1.0],
            "y": numbers([first, second]),
            "name": "the chord",
            "line": {"color": "@noise", "width": 1.5, "dash": "dash"},
            "marker": {"color": "@ink", "size": 9},
            "hovertemplate": "end of the chord, loss %{y:.6g}<extra></extra>",
        },
        {
            "type": "scatter",
            "mode": "lines+markers",
            "x": [one.fraction, one.fraction],
            "y": numbers([chord, middle]),
            "name": "the loss lies above it",
            "line": {"color": "@down", "width": 3},
            "marker": {"color": "@down", "size": [5, 11]},
            "hovertemplate": "loss %{y:.6g}<extra></extra>",
        },
    ]
    caption = (
        f"Three points on a line, the middle one at {amount(at[1])} of the way ({one.where}): the loss there is {amount(middle)}, the "
        f"chord {amount(chord)}. A gap below {amount(one.noise)} could be rounding; this one is {amount(one.gap)}."
    )
    return Figure(
        f"violation-{one.kind}",
        f"By {one.kind}: the loss lies {amount(one.gap)} above its chord",
        caption,
        traces,
        figure_layout(xaxis=axis("fraction of the way"), yaxis=axis("loss")),
        wide=False,
    )


def _others(
    accuracies: Tensor | None, gradient_norms: Tensor | None
) -> list[tuple[str, str, Tensor, str]]:
    found: list[tuple[str, str, Tensor, str]] = []
    if accuracies is not None and bool(torch.isfinite(accuracies).any()):
        found.append(("accuracy", "Accuracy on the same line", accuracies, "accuracy"))
    if gradient_norms is not None and bool(torch.isfinite(gradient_norms).any()):
        found.append(
            ("gradient-norm", "The gradient on the same line", gradient_norms, "gradient norm")
        )
    return found


def _measured(x: Tensor, y: Tensor, name: str, color: str) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": numbers(x),
        "y": numbers(y),
        "name": name,
        "line": {"color": color, "width": 1.5},
        "marker": {"color": color, "size": 5},
        "hovertemplate": f"%{{x:.4g}}<br>{name} %{{y:.6g}}<extra></extra>",
    }


def _spot(x: float, y: float) -> Trace:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [x],
        "y": numbers([y]),
        "name": "this point",
        "marker": {"color": "@ink", "size": 11},
        "hovertemplate": "this point: %{y:.6g}<extra></extra>",
    }


def _length(found: Interpolation) -> float:
    last = float(found.fractions[-1])
    return float(found.distances[-1]) / last if last else math.nan


def _buffers(found: Interpolation) -> str:
    return {
        "travel": "buffers, such as batch normalization's statistics, travel with the parameters",
        "recompute": "batch normalization's statistics were recomputed from the data at every point",
        "keep": "buffers stay as the model has them",
    }[found.buffers]


def _plain(found: Rescaled) -> int:
    """The α nearest to 1."""
    return int(found.alphas.log().abs().argmin())
