"""The spectrum of the Hessian: how curvatures are spread, and what is proved at both ends.

Answers: how much of the loss surface bends up, bends down, or is flat to the arithmetic?
Does not answer: where an eigenvalue lies that no product revealed; a Ritz value is drawn as what it is.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unstick.critical.point import Point
from unstick.report.figures import (
    Figure,
    Trace,
    amount,
    axis,
    counted,
    figure_layout,
    numbers,
    zero_band,
)
from unstick.spectrum.density import Density
from unstick.spectrum.ends import Ends
from unstick.spectrum.interval import Interval

__all__ = ["Curvatures", "curvatures_of", "negative_end_figure", "spectrum_figure"]

DECADES = 6
"""The density is drawn down to this many powers of ten below its peak: the tail of a Gaussian says nothing."""

CROWDED = 0.25
"""The negative end gets a figure of its own when it takes less than this part of the whole axis."""

ARM = 0.3
"""A bound is drawn to its end unless it lies farther out than this part of the width of all that was seen."""

CURVATURE = "curvature λ (loss / distance²)"


@dataclass(frozen=True, slots=True)
class Curvatures:
    """What is known of a spectrum, from whichever record it came."""

    values: Tensor  # ascending eigenvalues or Ritz values; may be empty
    values_name: str
    tau: float  # ±tau counts as zero
    lowest: Interval | None = None
    highest: Interval | None = None


def curvatures_of(record: Point | Ends | Density) -> Curvatures:
    """The curvatures that a record knows."""
    match record:
        case Point():
            exact = record.inertia is not None
            name = "eigenvalues" if exact else "Ritz values"
            return Curvatures(
                record.eigenvalues, name, record.tau, record.lambda_min, record.lambda_max
            )
        case Ends():
            return Curvatures(
                record.ritz_values,
                "Ritz values",
                record.noise_floor,
                record.lambda_min,
                record.lambda_max,
            )
        case Density():
            return Curvatures(torch.empty(0), "", record.noise_floor)


def spectrum_figure(known: Curvatures, density: Density | None) -> Figure:
    """The whole axis: the density with its standard error above, the single values below."""
    traces: list[Trace] = []
    low, high = _span(known, density)
    below = "y2" if density is not None else "y"
    layout = figure_layout(xaxis=axis(CURVATURE, anchor=below, range=[low, high]))
    if density is not None:
        peak = math.log10(float(density.density.max()))
        traces += _density_traces(density)
        layout["yaxis"] = axis(
            "density of curvatures",
            type="log",
            range=[peak - DECADES, peak + 0.3],
            domain=[0.26, 1],
            dtick=2,
        )
        layout["yaxis2"] = _rug_axis([0, 0.2])
    else:
        layout["yaxis"] = _rug_axis([0, 1])
    traces += _value_traces(known, below)
    traces.append(_zero_legend(known))
    layout["shapes"] = zero_band(known.tau)
    tall = 440 if density is not None else 260
    caption = _spectrum_caption(known, density) + _run_off(known, low, high)
    return Figure("spectrum", _spectrum_title(known), caption, traces, layout, tall=tall)


def negative_end_figure(known: Curvatures) -> Figure | None:
    """The neighborhood of zero, enlarged; ``None`` where the whole axis already shows it."""
    low, high = known.lowest, known.highest
    if low is None or high is None or low.value >= -known.tau or low.value < -CROWDED * high.value:
        return None
    reach = 1.25 * abs(low.low if math.isfinite(low.low) and low.low > 4 * low.value else low.value)
    layout = figure_layout(
        xaxis=axis(CURVATURE, range=[-reach, reach]),
        yaxis=_rug_axis([0, 1]),
        shapes=zero_band(known.tau),
    )
    shown = int(((known.values >= -reach) & (known.values <= reach)).sum())
    below = int((known.values < -known.tau).sum())
    caption = (
        f"The same axis, enlarged around zero: {shown:,} of {counted(len(known.values), 'value')} lie in this window, "
        f"{below:,} of them below −τ = −{amount(known.tau)}."
    )
    traces = [*_value_traces(known, "y"), _zero_legend(known)]
    found = counted(below, known.values_name[:-1], known.values_name)
    title = f"Around zero: {found} clearly below it"
    return Figure("negative-end", title, caption, traces, layout, tall=240)


def _span(known: Curvatures, density: Density | None) -> tuple[float, float]:
    """The axis: all values and densities that are drawn, and of the bounds as much as does not dwarf them."""
    ends = [interval.value for interval in (known.lowest, known.highest) if interval is not None]
    seen = torch.cat([known.values.double(), torch.tensor(ends, dtype=torch.float64)])
    if density is not None:
        visible = density.density > float(density.density.max()) * 10.0**-DECADES
        seen = torch.cat([seen, density.grid[visible].double()])
    low, high = (float(seen.min()), float(seen.max())) if len(seen) else (0.0, 0.0)
    width = high - low or max(abs(high), 1.0)
    arm = ARM * width
    if known.lowest is not None:
        low = max(low - arm, min(low, known.lowest.low))
    if known.highest is not None:
        high = min(high + arm, max(high, known.highest.high))
    return low - 0.05 * width, high + 0.05 * width


def _run_off(known: Curvatures, low: float, high: float) -> str:
    """A sentence on bounds that reach beyond the axis."""
    beyond = [
        name
        for name, interval in (("λ min", known.lowest), ("λ max", known.highest))
        if interval is not None and (interval.low < low or interval.high > high)
    ]
    return f" The bounds of {' and '.join(beyond)} reach beyond the axis." if beyond else ""


def _spectrum_title(known: Curvatures) -> str:
    low, high = known.lowest, known.highest
    if low is None or high is None:
        return "How the curvatures of the loss are spread"
    if low.high < -known.tau:
        return f"The loss curves down somewhere: the lowest curvature is {amount(low.value)}"
    if low.low >= -known.tau:
        return f"The loss curves down nowhere: the lowest curvature is {amount(low.value)}"
    return f"Curvatures from {amount(low.value)} to {amount(high.value)}"


def _spectrum_caption(known: Curvatures, density: Density | None) -> str:
    told: list[str] = []
    if density is not None:
        told.append(
            f"Height tells how many curvatures lie there, on a logarithmic axis cut {DECADES} powers of ten below the peak; "
            f"each is drawn as a Gaussian of width σ = {amount(density.width)}, and {_band(density)}."
        )
    if len(known.values):
        told.append(
            f"Ticks are {counted(len(known.values), known.values_name[:-1], known.values_name)}."
        )
    for name, interval in (("λ min", known.lowest), ("λ max", known.highest)):
        if interval is not None:
            told.append(f"{name} = {amount(interval)}.")
    told.append(f"The gray band ±τ = ±{amount(known.tau)} counts as zero.")
    return " ".join(told)


def _band(density: Density) -> str:
    known = bool(torch.isfinite(density.standard_error).any())
    starts = counted(density.starts, "random start")
    return (
        f"the band is ± one standard error over {starts}"
        if known
        else f"{starts} give no standard error"
    )


def _density_traces(density: Density) -> list[Trace]:
    floor = float(density.density.max()) * 10.0 ** (-DECADES - 1)
    x = numbers(density.grid)
    lower = numbers((density.density - density.standard_error).clamp_min(floor))
    upper = numbers((density.density + density.standard_error).clamp_min(floor))
    edge = {"type": "scatter", "mode": "lines", "line": {"width": 0}, "x": x, "hoverinfo": "skip"}
    return [
        {**edge, "y": lower, "showlegend": False},
        {
            **edge,
            "y": upper,
            "fill": "tonexty",
            "fillcolor": "@measured-soft",
            "name": "± standard error",
        },
        {
            "type": "scatter",
            "mode": "lines",
            "x": x,
            "y": numbers(density.density.clamp_min(floor)),
            "name": "density",
            "line": {"color": "@measured", "width": 2},
            "hovertemplate": "λ = %{x:.4g}<br>density %{y:.3g}<extra></extra>",
        },
    ]


def _value_traces(known: Curvatures, yaxis: str) -> list[Trace]:
    traces: list[Trace] = []
    if len(known.values):
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": numbers(known.values),
                "y": [1] * len(known.values),
                "yaxis": yaxis,
                "name": known.values_name,
                "marker": {
                    "symbol": "line-ns-open",
                    "size": 13,
                    "color": [
                        "@down" if value < -known.tau else "@measured"
                        for value in known.values.tolist()
                    ],
                    "line": {"width": 1.2},
                },
                "hovertemplate": "λ = %{x:.5g}<extra></extra>",
            }
        )
    ends = ((known.lowest, "λ min", "@down"), (known.highest, "λ max", "@escape"))
    traces += [
        _interval_trace(interval, name, color, yaxis) for interval, name, color in ends if interval
    ]
    return traces


def _interval_trace(interval: Interval, name: str, color: str, yaxis: str) -> Trace:
    up, down = interval.high - interval.value, interval.value - interval.low
    return {
        "type": "scatter",
        "mode": "markers",
        "x": numbers([interval.value]),
        "y": [0],
        "yaxis": yaxis,
        "name": f"{name} and its bounds",
        "marker": {"symbol": "diamond", "size": 9, "color": color},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [up if math.isfinite(up) else 0],
            "arrayminus": [down if math.isfinite(down) else 0],
            "color": color,
            "thickness": 2,
            "width": 6,
        },
        "hovertemplate": f"{name} = {amount(interval)}<extra></extra>",
    }


def _zero_legend(known: Curvatures) -> Trace:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [0],
        "y": [None],
        "name": f"±τ = ±{amount(known.tau)}: zero",
        "marker": {
            "symbol": "square",
            "color": "@zero",
            "size": 11,
            "line": {"color": "@noise", "width": 1},
        },
    }


def _rug_axis(domain: list[float]) -> Trace:
    return axis(
        "",
        domain=domain,
        range=[-0.9, 1.9],
        tickvals=[0, 1],
        ticktext=["ends", "values"],
        showgrid=False,
        zeroline=False,
    )
