"""The model layer by layer: where eigenvectors lie, how each layer bends the loss alone, what signal it lets through.

Answers: which layers carry the sharpest and the lowest curvatures; where does the signal fade or grow?
Does not answer: how layers bend the loss together; a block leaves the other layers fixed.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from torch import Tensor

from unstick.critical.layers import Block, CurvatureByLayer, LayerMass
from unstick.record import number
from unstick.report.figures import (
    Figure,
    Trace,
    amount,
    axis,
    figure_layout,
    label,
    numbers,
)
from unstick.training.signals import LayerSignal, SignalByLayer

__all__ = [
    "blocks_figure",
    "largest",
    "left_out",
    "mass_figures",
    "named_axis",
    "row_height",
    "signal_figures",
]

ROWS = 40
"""Most layers that one figure shows: the ones with the most to show."""

FADED = 0.005
"""Shares below this are written as nothing: they would round to 0 %."""

PALEST = 0.2
"""The least share that takes the full color, so that shares of many small layers still differ to the eye."""

LETTERS = 18
"""Longer names lose modules at their front where that leaves them apart: a phone is 45 letters wide."""

SCALE = [[0.0, "@card"], [1.0, "@measured"]]


def mass_figures(mass: LayerMass) -> list[Figure]:
    """The share of each vector in each module, and in each tensor where a module has several."""
    if not mass.vectors:
        return []
    figures = [_map("mass", mass.headline(), mass.modules, mass.module_shares, mass.vectors)]
    if len(mass.names) > len(mass.modules):
        title = "The same, tensor by tensor"
        figures.append(_map("mass-tensors", title, mass.names, mass.shares, mass.vectors))
    return figures


def blocks_figure(found: CurvatureByLayer) -> Figure:
    """The highest eigenvalue of each layer's own block, and under it the lowest."""
    reach = [max(abs(b.lambda_min.value), abs(b.lambda_max.value)) for b in found.blocks]
    rows = largest(reach)
    shown = [found.blocks[at] for at in rows]
    up = ["@escape" if block.lambda_max.low > 0 else "@measured" for block in shown]
    down = ["@down" if block.lambda_min.high < 0 else "@measured" for block in shown]
    panel, between = max(72, 26 * len(rows)), 76  # pixels, the second for an axis and its title
    share = panel / (2 * panel + between)
    layers = named_axis([block.name for block in shown])
    layout = figure_layout(
        showlegend=False,
        xaxis=axis("highest curvature λ max", **_span([b.lambda_max.value for b in shown])),
        yaxis={**layers, "domain": [1 - share, 1]},
        xaxis2=axis(
            "lowest curvature λ min", anchor="y2", **_span([b.lambda_min.value for b in shown])
        ),
        yaxis2={**layers, "domain": [0, share], "anchor": "x2"},
        bargap=0.35,
    )
    pale = " Pale: the search ended before both ends of the block had converged."
    caption = (
        "Each layer's own block of the Hessian: how the loss bends when that layer moves and the others stay. The two "
        "axes have different scales; what lies within the noise of the arithmetic is written as 0. What is negative here "
        "is negative for the whole model too; layers that move together may bend the loss more than any does alone."
        f"{'' if all(map(_settled, shown)) else pale}{left_out(found.blocks, rows)}"
    )
    return Figure(
        "blocks",
        "How the loss bends when one layer alone moves",
        caption,
        [_bars(shown, "λ max", "", up), _bars(shown, "λ min", "2", down)],
        layout,
        tall=2 * panel + between + 68,
    )


def signal_figures(found: SignalByLayer) -> list[Figure]:
    """The variance after each layer, and of the gradient there where it was asked for; on logarithmic axes."""
    layers = found.layers
    forward = {at: layer.variance for at, layer in enumerate(layers)}
    backward = {
        at: layer.gradient_variance
        for at, layer in enumerate(layers)
        if layer.gradient_variance is not None
    }
    figures: list[Figure] = []
    if any(map(_has_logarithm, forward.values())):
        title = found.headline().removesuffix(".")
        figures.append(_signal_figure("signal", title, "variance", layers, forward, one=True))
    if any(map(_has_logarithm, backward.values())):
        title = "The variance of the gradient at the same places"
        figures.append(
            _signal_figure("signal-gradient", title, "variance of ∂loss/∂output", layers, backward)
        )
    return figures


def _signal_figure(
    name: str,
    title: str,
    what: str,
    layers: Sequence[LayerSignal],
    values: dict[int, float],
    *,
    one: bool = False,
) -> Figure:
    """Layers down in the order of the forward pass, the variance across."""
    step = math.ceil(len(values) / ROWS)
    every = list(values)
    rows = sorted({*every[::step], every[-1]})
    names = _apart([_called(layers[at]) for at in rows])
    placed = [values[at] if _has_logarithm(values[at]) else math.nan for at in rows]
    logs = [math.log10(value) for value in placed if not math.isnan(value)] + [0.0] * one
    low, high = min(logs) - 0.25, max(logs) + 0.25
    air = max(0.0, (1 - high + low) / 2)  # at least one power of ten
    across = axis(
        what,
        type="log",
        range=[low - air, high + air],
        dtick=max(1, math.ceil((high - low + 2 * air) / 5)),
    )
    line: Trace = {
        "type": "scatter",
        "mode": "lines+markers",
        "x": numbers(placed),
        "y": [label(text) for text in names],
        "line": {"color": "@measured", "width": 1.5},
        "marker": {"color": "@measured", "size": 8},
        "text": [label(layers[at].kind) for at in rows],
        "hovertemplate": "%{y} (%{text})<br>%{x:.5g}<extra></extra>",
        "showlegend": False,
    }
    down = named_axis(names)
    layout = figure_layout(
        xaxis=across,
        yaxis={**down, "categoryorder": "array", "categoryarray": [label(n) for n in names][::-1]},
    )
    if one:
        edge = {"color": "@predicted", "width": 1.5, "dash": "dot"}
        place = {"xref": "x", "yref": "paper", "x0": 1, "x1": 1, "y0": 0, "y1": 1}
        layout["shapes"] = [{"type": "line", "line": edge, **place}]
    missing = [text for text, value in zip(names, placed, strict=True) if math.isnan(value)]
    more = ", …" if len(missing) > 6 else ""
    lost = (
        f" Not drawn, because 0 or not finite: {', '.join(missing[:6])}{more}." if missing else ""
    )
    some = f" Shown: {len(rows)} of {len(values)} layers, evenly spaced." if step > 1 else ""
    caption = (
        "Over samples and units together, in the order of the forward pass from above, on a logarithmic axis."
        f"{' Dotted: 1.' if one else ''}{lost}{some}"
    )
    return Figure(name, title, caption, [line], layout, wide=False, tall=row_height(rows))


def _has_logarithm(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _called(layer: LayerSignal) -> str:
    """A layer's name; with its kind where it is only a number."""
    return (
        f"{layer.name} {layer.kind}".strip() if layer.name.isdigit() else layer.name or layer.kind
    )


def _apart(names: Sequence[str]) -> list[str]:
    """Names of which none is there twice: an axis draws a category once."""
    seen = Counter[str]()
    told: list[str] = []
    for name in names:
        seen[name] += 1
        told.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return told


def _map(
    name: str, title: str, layers: Sequence[str], shares: Tensor, vectors: Sequence[str]
) -> Figure:
    """Layers down, vectors across, the share in color and in words."""
    rows = largest(shares.amax(1).tolist())
    shown = [layers[at] for at in rows]
    cells = [numbers(shares[at]) for at in rows]
    # Two values may print alike, and a category is drawn once; a number tells them apart.
    columns = [
        label(text) if vectors.count(text) == 1 else f"{label(text)} ({at + 1})"
        for at, text in enumerate(vectors)
    ]
    heat: Trace = {
        "type": "heatmap",
        "x": columns,
        "y": [label(layer) for layer in shown],
        "z": cells,
        "text": [[_percent(cell) for cell in row] for row in cells],
        "texttemplate": "%{text}",
        "zmin": 0,
        "zmax": max(PALEST, float(shares.max())),
        "colorscale": SCALE,
        "xgap": 2,
        "ygap": 2,
        "showscale": False,
        "hovertemplate": "%{y}<br>%{x}<br>%{z:.2%} of the squared length<extra></extra>",
    }
    layout = figure_layout(
        xaxis=axis("eigenvector", type="category", showgrid=False, side="top"),
        yaxis=named_axis(shown),
        margin={"l": 64, "r": 16, "t": 64, "b": 16},
    )
    caption = (
        "How much of the squared length of each eigenvector lies in each layer, in the order of the model from above; a "
        f"column of all layers adds up to 100 %. Below 0.5 % nothing is written.{left_out(layers, rows)}"
    )
    return Figure(name, title, caption, [heat], layout, tall=row_height(rows))


def _percent(share: float | None) -> str:
    return "" if share is None or share < FADED else f"{share:.0%}"


def _bars(blocks: Sequence[Block], what: str, which: str, colors: Sequence[str]) -> Trace:
    """One end of every block; a value within the noise is drawn where it is and written as 0."""
    highest = what == "λ max"
    values = [b.lambda_max.value if highest else b.lambda_min.value for b in blocks]
    told = [
        _written(value) if abs(value) > block.noise_floor else "0"
        for value, block in zip(values, blocks, strict=True)
    ]
    return {
        "type": "bar",
        "orientation": "h",
        "x": numbers(values),
        "y": [label(block.name) for block in blocks],
        "xaxis": f"x{which}",
        "yaxis": f"y{which}",
        "marker": {
            "color": list(colors),
            "opacity": [1.0 if _settled(block) else 0.45 for block in blocks],
        },
        "text": told,
        "textposition": "outside",
        "cliponaxis": False,
        "customdata": [f"{block.parameters:,} parameters, {block.outcome}" for block in blocks],
        "hovertemplate": f"%{{y}}<br>{what} = %{{x:.5g}}<br>%{{customdata}}<extra></extra>",
    }


def _written(value: float) -> str:
    """A number as short as a phone needs it; the page lists all digits."""
    return amount(number(value, 2 if abs(value) < 1e-3 else 3 if abs(value) < 1e3 else 4))


def _settled(block: Block) -> bool:
    return block.outcome in ("converged", "exhausted")


def named_axis(names: Sequence[str]) -> Trace:
    """Layers by name; a long one is written without its first modules, in full where the pointer is."""
    return axis(
        "",
        type="category",
        showgrid=False,
        tickmode="array",
        tickvals=[label(name) for name in names],
        ticktext=[label(text) for text in _shortened(names)],
    )


def _shortened(names: Sequence[str]) -> list[str]:
    """Each name from the first module on from which it is short, or from the last on from which it is still its own."""
    ends = {name: _ends(name) for name in names}
    counts = Counter(end for each in ends.values() for end in each)
    told: list[str] = []
    for name in names:
        own = [end for end in ends[name] if counts[end] == 1] or [name]
        chosen = next((end for end in own if len(end) <= LETTERS), own[-1])
        told.append(name if chosen == name else f"…{chosen}")
    return told


def _ends(name: str) -> list[str]:
    """The name, then without its first module, and so on: ``a.b.c``, ``b.c``, ``c``."""
    parts = name.split(".")
    return [".".join(parts[at:]) for at in range(len(parts))]


def _span(values: Iterable[float]) -> Trace:
    """The range of an axis, with room for numbers beside the bars; that of a bar too short to see is to its right."""
    low, high = min(0.0, *values), max(0.0, *values)
    air = 0.45 * ((high - low) or 1.0)
    return {"range": [low - (air if low < 0 else 0.0), high + air]}


def largest(sizes: Sequence[float]) -> list[int]:
    """The rows to draw, in the order of the model, bottom up."""
    ranked = sorted(range(len(sizes)), key=lambda at: -sizes[at])[:ROWS]
    return sorted(ranked, reverse=True)


def left_out(layers: Sequence[object], rows: Sequence[int]) -> str:
    """A sentence on the layers that are not drawn; empty when all are."""
    return f" Shown: the {len(rows)} largest of {len(layers)}." if len(rows) < len(layers) else ""


def row_height(rows: Sequence[object]) -> int:
    """Pixels of a figure with a row for each."""
    return max(240, 130 + 30 * len(rows))
