"""The parameters, layer by layer: where is there a gradient, and which layers have to move?

Answers: what has each layer to do with the gradient and with the way out?
Does not answer: what the landscape looks like (``plane_figures``).
"""

import math
from collections.abc import Sequence

from unstick.diagnosis.portrait import Layer
from unstick.report.figures import (
    LEGEND,
    Figure,
    Trace,
    axis,
    counted,
    figure_layout,
    label,
    numbers,
)

__all__ = ["gradient_figure", "share_figure"]

LAYERS = 40
"""Most layers that one figure shows: the ones with the longest bars."""


def gradient_figure(layers: Sequence[Layer]) -> Figure:
    """The gradient of each layer against its sampling noise."""
    shown = _largest(layers, [layer.gradient_norm for layer in layers])
    zero = [layer.name for layer in layers if layer.gradient_norm == 0.0]
    noisy = [layer for layer in shown if layer.gradient_standard_error is not None]
    buried = sum(layer.gradient_norm < (layer.gradient_standard_error or 0.0) for layer in noisy)
    traces = [
        _layer_bars(shown, [layer.gradient_norm for layer in shown], "gradient norm", "@measured")
    ]
    if noisy:
        errors = [layer.gradient_standard_error or math.nan for layer in shown]
        traces.insert(0, _layer_bars(shown, errors, "sampling noise of it", "@noise"))
    flat = f" Exactly zero, so without a bar: {', '.join(zero)}." if zero else ""
    caption = (
        "Each bar is a norm over one parameter tensor, on a logarithmic axis: compare the ends of the bars, not their lengths. "
        f"A gradient shorter than its noise cannot be told from zero by these samples.{flat}{_left_out(layers, shown)}"
    )
    if zero:
        title = f"The gradient is exactly zero in {len(zero)} of {counted(len(layers), 'layer')}"
    elif noisy:
        title = f"The gradient is below its sampling noise in {buried} of {counted(len(noisy), 'layer')}"
    else:
        title = "How long the gradient is in each layer"
    layout = _layer_layout(axis("norm (loss / distance)", type="log", dtick=_decades_apart(traces)))
    return Figure(
        "gradient", title, caption, traces, layout, wide=False, tall=_tall(shown, bars=len(traces))
    )


def share_figure(layers: Sequence[Layer]) -> Figure | None:
    """Which layers carry the escape direction; ``None`` without one."""
    carrying = [layer for layer in layers if layer.escape_share is not None]
    if not carrying:
        return None
    shares = [layer.escape_share or 0.0 for layer in carrying]
    shown = _largest(carrying, shares)
    most = max(carrying, key=lambda layer: layer.escape_share or 0.0)
    bars = _layer_bars(shown, [layer.escape_share or 0.0 for layer in shown], "share", "@escape")
    bars |= {
        "text": [f"{layer.escape_share or 0.0:.1%}" for layer in shown],
        "textposition": "auto",
        "hovertemplate": "%{y}: %{x:.2%}<extra></extra>",
    }
    layout = _layer_layout(
        axis("share of the squared length", tickformat=".0%", rangemode="tozero")
    )
    layout["showlegend"] = False
    return Figure(
        "share",
        f"{max(shares):.0%} of the escape direction lies in {most.name}",
        "The parts of the squared length of the unit escape direction that lie in each parameter tensor; "
        f"together they are 100 %.{_left_out(carrying, shown)}",
        [bars],
        layout,
        wide=False,
        tall=_tall(shown, bars=2),
    )


def _largest(layers: Sequence[Layer], sizes: Sequence[float]) -> list[Layer]:
    """The layers to draw, in the order of the model, bottom up."""
    ranked = sorted(range(len(layers)), key=lambda at: -sizes[at])[:LAYERS]
    return [layers[at] for at in sorted(ranked, reverse=True)]


def _left_out(layers: Sequence[Layer], shown: Sequence[Layer]) -> str:
    return (
        f" Shown: the largest {len(shown)} of {len(layers)} tensors."
        if len(shown) < len(layers)
        else ""
    )


def _layer_bars(layers: Sequence[Layer], values: Sequence[float], name: str, color: str) -> Trace:
    return {
        "type": "bar",
        "orientation": "h",
        "y": [label(layer.name) for layer in layers],
        "x": [value if value else None for value in numbers(values)],
        "name": name,
        "marker": {"color": color},
        "hovertemplate": f"%{{y}}<br>{name} %{{x:.4g}}<extra></extra>",
    }


def _layer_layout(x: Trace) -> Trace:
    y = axis("", type="category", showgrid=False)
    return figure_layout(
        xaxis=x, yaxis=y, barmode="group", bargap=0.35, legend={**LEGEND, "traceorder": "reversed"}
    )


def _decades_apart(bars: Sequence[Trace]) -> int:
    """Powers of ten from one tick to the next, so that at most six are written."""
    logs = [math.log10(value) for trace in bars for value in trace["x"] if value]
    return max(1, math.ceil((max(logs) - min(logs)) / 5)) if logs else 1


def _tall(layers: Sequence[Layer], *, bars: int) -> int:
    return max(260, 130 + 20 * bars * len(layers))
