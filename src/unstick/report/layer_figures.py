"""The curvature layer by layer: where eigenvectors lie, and how each layer bends the loss alone.

Answers: which layers carry the sharpest and the lowest curvatures?
Does not answer: how layers bend the loss together; a block leaves the other layers fixed.
"""

from collections.abc import Iterable, Sequence

from torch import Tensor

from unstick.critical.layers import Block, CurvatureByLayer, LayerMass
from unstick.report.figures import Figure, Trace, amount, axis, figure_layout, label, numbers

__all__ = ["blocks_figure", "mass_figures"]

ROWS = 40
"""Most layers that one figure shows: the ones with the most to show."""

FADED = 0.005
"""Shares below this are written as nothing: they would round to 0 %."""

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
    """The lowest and the highest eigenvalue of each layer's own block, side by side."""
    reach = [max(abs(b.lambda_min.value), abs(b.lambda_max.value)) for b in found.blocks]
    rows = _largest(reach)
    shown = [found.blocks[at] for at in rows]
    names = [label(block.name) for block in shown]
    down = [block.lambda_min.value for block in shown]
    up = [block.lambda_max.value for block in shown]
    traces = [
        _bars(names, down, shown, "λ min", "", ["@down" if v < 0 else "@measured" for v in down]),
        _bars(names, up, shown, "λ max", "2", ["@escape" if v > 0 else "@down" for v in up]),
    ]
    layout = figure_layout(
        showlegend=False,
        xaxis=axis("lowest curvature λ min", domain=[0, 0.47], **_span(down)),
        xaxis2=axis("highest curvature λ max", domain=[0.53, 1], anchor="y2", **_span(up)),
        yaxis=axis("", type="category", showgrid=False),
        yaxis2=axis("", type="category", showgrid=False, showticklabels=False, anchor="x2"),
        bargap=0.35,
    )
    caption = (
        "Each layer's own block of the Hessian: how the loss bends when that layer moves and the others stay. The two "
        "axes have different scales. What is negative here is negative for the whole model too; layers that move "
        f"together may bend the loss more than any does alone.{_left_out(found.blocks, rows)}"
    )
    return Figure("blocks", found.headline(), caption, traces, layout, tall=_tall(rows))


def _map(
    name: str, title: str, layers: Sequence[str], shares: Tensor, vectors: Sequence[str]
) -> Figure:
    """Layers down, vectors across, the share in color and in words."""
    rows = _largest(shares.amax(1).tolist())
    cells = [numbers(shares[at]) for at in rows]
    # Two values may print alike, and a category is drawn once; a number tells them apart.
    columns = [
        label(f"{text}") if vectors.count(text) == 1 else f"{label(text)} ({at + 1})"
        for at, text in enumerate(vectors)
    ]
    heat: Trace = {
        "type": "heatmap",
        "x": columns,
        "y": [label(layers[at]) for at in rows],
        "z": cells,
        "text": [[_percent(cell) for cell in row] for row in cells],
        "texttemplate": "%{text}",
        "zmin": 0,
        "zmax": 1,
        "colorscale": SCALE,
        "xgap": 2,
        "ygap": 2,
        "showscale": False,
        "hovertemplate": "%{y}<br>%{x}<br>%{z:.2%} of the squared length<extra></extra>",
    }
    layout = figure_layout(
        xaxis=axis("eigenvector", type="category", showgrid=False, side="top"),
        yaxis=axis("", type="category", showgrid=False),
        margin={"l": 64, "r": 16, "t": 64, "b": 16},
    )
    caption = (
        "How much of the squared length of each eigenvector lies in each layer, in the order of the model from above; a "
        f"column adds up to 100 %. Below 0.5 % nothing is written.{_left_out(layers, rows)}"
    )
    return Figure(name, title, caption, [heat], layout, tall=_tall(rows))


def _percent(share: float | None) -> str:
    return "" if share is None or share < FADED else f"{share:.0%}"


def _bars(
    names: Sequence[str],
    values: Sequence[float],
    blocks: Sequence[Block],
    what: str,
    which: str,
    colors: Sequence[str],
) -> Trace:
    return {
        "type": "bar",
        "orientation": "h",
        "x": numbers(values),
        "y": names,
        "xaxis": f"x{which}",
        "yaxis": f"y{which}",
        "marker": {"color": list(colors)},
        "text": [amount(value) for value in values],
        "textposition": "outside",
        "cliponaxis": False,
        "customdata": [f"{block.parameters:,} parameters, {block.outcome}" for block in blocks],
        "hovertemplate": f"%{{y}}<br>{what} = %{{x:.5g}}<br>%{{customdata}}<extra></extra>",
    }


def _span(values: Iterable[float]) -> Trace:
    """The range of an axis, with room for the numbers beside the bars."""
    low, high = min(0.0, *values), max(0.0, *values)
    width = (high - low) or 1.0
    air = 0.3 * width
    return {"range": [low - (air if low < 0 else 0.0), high + (air if high > 0 else 0.0)]}


def _largest(sizes: Sequence[float]) -> list[int]:
    """The rows to draw, in the order of the model, bottom up."""
    ranked = sorted(range(len(sizes)), key=lambda at: -sizes[at])[:ROWS]
    return sorted(ranked, reverse=True)


def _left_out(layers: Sequence[object], rows: Sequence[int]) -> str:
    return f" Shown: the {len(rows)} largest of {len(layers)}." if len(rows) < len(layers) else ""


def _tall(rows: Sequence[int]) -> int:
    return max(240, 130 + 30 * len(rows))
