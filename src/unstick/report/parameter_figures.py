"""The parameters: the plane of two directions, and what each layer has to do with it.

Answers: what does the landscape look like here, where is there a gradient, and which layers have to move?
Does not answer: what lies outside the plane; the other directions are not drawn.
"""

import math
from collections.abc import Sequence

import torch

from unstick.critical.escaping import Escape
from unstick.diagnosis.portrait import Layer
from unstick.landscape.plane import Plane
from unstick.report.figures import (
    LEGEND,
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

__all__ = ["gradient_figure", "plane_figures", "share_figure"]

STEEP = 6.0
"""A plane is cut where the loss exceeds its lowest value by this many times what it does at the median."""

LAYERS = 40
"""Most layers that one figure shows: the ones with the longest bars."""

SCALE = [
    [0.0, "@level-0"],
    [0.25, "@level-1"],
    [0.5, "@level-2"],
    [0.75, "@level-3"],
    [1.0, "@level-4"],
]


def plane_figures(plane: Plane, escape: Escape | None, *, noise: float = 0.0) -> list[Figure]:
    """The plane from above and as a surface; nothing when no loss in it is finite."""
    if not bool(torch.isfinite(plane.losses).any()):
        return []
    window = _window(plane)
    cut = (
        f" Colors and height end at {amount(window.high)}: {counted(window.outside, 'value')} above, "
        f"up to {amount(window.hidden_top)}, are cut off."
        if window.outside
        else ""
    )
    missing = unseen(plane.losses.flatten(), "grid point")
    marked, apart = _marks(plane, escape)
    x_name, y_name = (
        f"distance along the {label(plane.x_name)}",
        f"distance along the {label(plane.y_name)}",
    )
    above = Figure(
        "plane",
        _plane_title(plane, noise),
        f"The loss over the plane that the two directions span, from above; lines join equal losses."
        f"{apart}{cut}{missing} The two directions met at a cosine of {amount(round(plane.cosine, 3))} and were made perpendicular.",
        [_contour(plane, window), *(_dot(*mark) for mark in marked)],
        figure_layout(xaxis=axis(x_name), yaxis=axis(y_name)),
        wide=False,
        tall=440,
    )
    surface = Figure(
        "surface",
        "The same plane as a landscape",
        f"Height and color are the loss; turn it with the mouse or a finger. A label's line ends at its point.{cut}{missing}",
        [_surface(plane, window), *(_ball(*mark) for mark in marked)],
        figure_layout(
            margin={"l": 0, "r": 0, "t": 0, "b": 0},
            dragmode="orbit",
            scene={
                "xaxis": _scene_axis(_short(plane.x_name)),
                "yaxis": _scene_axis(_short(plane.y_name)),
                "zaxis": _scene_axis("", range=window.padded()),
                "annotations": [_flag(*mark) for mark in marked],
                "aspectmode": "manual",
                "aspectratio": {"x": 1.15, "y": 1.15, "z": 0.8},
                "camera": _camera(plane, window),
            },
        ),
        wide=False,
        tall=440,
        flat=False,
    )
    return [above, surface]


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


def _window(plane: Plane) -> Window:
    finite = plane.losses[torch.isfinite(plane.losses)].double()
    low, top = float(finite.min()), float(finite.max())
    high = low + STEEP * (float(finite.median()) - low)
    high = min(top, high) if high > low else top
    return Window(low, high, int((finite > high).sum()), top)


def _plane_title(plane: Plane, noise: float) -> str:
    row, column = int(plane.y.abs().argmin()), int(plane.x.abs().argmin())
    here = float(plane.losses[row, column])
    finite = plane.losses[torch.isfinite(plane.losses)]
    fall = here - float(finite.min())
    return (
        f"From here the plane leads {amount(fall)} down"
        if fall > 2 * noise
        else "No place in this plane is lower"
    )


def _marks(
    plane: Plane, escape: Escape | None
) -> tuple[list[tuple[float, float, float, str, str]], str]:
    """This point, and the escape where it lies in the plane; else a sentence that says so."""
    row, column = int(plane.y.abs().argmin()), int(plane.x.abs().argmin())
    marks = [(0.0, 0.0, float(plane.losses[row, column]), "this point", "@ink-inverse")]
    if escape is None or not escape.moved or "escape" not in plane.x_name:
        return marks, ""
    if not float(plane.x.min()) <= escape.step <= float(plane.x.max()):
        return marks, f" The escape, a step of {amount(escape.step)}, lies beyond the edge."
    marks.append((escape.step, 0.0, _at(plane, escape.step), "escape", "@mark"))
    return marks, ""


def _at(plane: Plane, x: float) -> float:
    """The measured loss of the nearest grid point on the x axis: where the mark is drawn."""
    row, column = int(plane.y.abs().argmin()), int((plane.x - x).abs().argmin())
    return float(plane.losses[row, column])


def _contour(plane: Plane, window: Window) -> Trace:
    return {
        "type": "contour",
        **_grid(plane, window),
        "colorscale": SCALE,
        "zauto": False,
        "zmin": window.low,
        "zmax": window.high,
        "ncontours": 24,
        "line": {"width": 0.6, "color": "@contour"},
        "colorbar": _colorbar(),
        "hovertemplate": "%{x:.4g}, %{y:.4g}<br>loss %{z:.5g}<extra></extra>",
    }


def _surface(plane: Plane, window: Window) -> Trace:
    return {
        "type": "surface",
        **_grid(plane, window),
        "colorscale": SCALE,
        "cauto": False,
        "cmin": window.low,
        "cmax": window.high,
        "showscale": False,
        "lighting": {"ambient": 0.75, "diffuse": 0.55, "specular": 0.06, "roughness": 0.9},
        "contours": {"z": {"show": True, "usecolormap": False, "color": "@contour", "width": 1}},
        "hovertemplate": "%{x:.4g}, %{y:.4g}<br>loss %{z:.5g}<extra></extra>",
    }


def _grid(plane: Plane, window: Window) -> Trace:
    rows = [numbers(row) for row in window.near(plane.losses)]
    return {"x": numbers(plane.x), "y": numbers(plane.y), "z": rows}


def _colorbar() -> Trace:
    return {
        "title": {"text": "loss", "side": "top"},
        "thickness": 10,
        "outlinewidth": 0,
        "tickfont": {"color": "@muted"},
        "exponentformat": "power",
    }


def _dot(x: float, y: float, z: float, name: str, color: str) -> Trace:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": numbers([x]),
        "y": numbers([y]),
        "name": name,
        "showlegend": True,
        "marker": _marker(name, color, 12),
        "hovertemplate": f"{name}<br>loss {amount(z)}<extra></extra>",
    }


def _ball(x: float, y: float, z: float, name: str, color: str) -> Trace:
    return {
        "type": "scatter3d",
        "mode": "markers",
        "x": numbers([x]),
        "y": numbers([y]),
        "z": numbers([z]),
        "name": name,
        "showlegend": False,
        "marker": _marker(name, color, 6),
        "hovertemplate": f"{name}<br>loss {amount(z)}<extra></extra>",
    }


def _flag(x: float, y: float, z: float, name: str, _color: str) -> Trace:
    """A label over a mark: it stays readable where the surface hides the mark."""
    place = {"x": x, "y": y, "z": z, "ax": 0, "ay": -44, "arrowhead": 0, "arrowwidth": 1.5}
    look = {"arrowcolor": "@ink", "bgcolor": "@page", "bordercolor": "@axis", "borderpad": 3}
    return {"text": name, "font": {"color": "@ink", "size": 12}, **place, **look}


def _marker(name: str, color: str, size: int) -> Trace:
    symbol = "circle" if name == "this point" else "diamond"
    return {
        "symbol": symbol,
        "size": size,
        "color": color,
        "line": {"color": "@mark-edge", "width": 1.5},
    }


def _camera(plane: Plane, window: Window) -> Trace:
    """The eye over the lowest corner, so that no wall hides the valley."""
    losses = (
        plane.losses.double()
        .nan_to_num(window.high, window.high, window.high)
        .clamp_max(window.high)
    )
    right, left = losses[:, plane.x > 0].mean(), losses[:, plane.x < 0].mean()
    upper, lower = losses[plane.y > 0].mean(), losses[plane.y < 0].mean()
    eye = {"x": -1.4 if right > left else 1.4, "y": -1.4 if upper >= lower else 1.4, "z": 1.15}
    return {"eye": eye, "center": {"x": 0, "y": 0, "z": -0.15}}


def _scene_axis(title: str, **more: object) -> Trace:
    return {
        "title": {"text": title},
        "color": "@muted",
        "gridcolor": "@grid",
        "zerolinecolor": "@axis",
        "showbackground": False,
        "exponentformat": "power",
        "nticks": 5,
        "showspikes": False,
        **more,
    }


def _short(name: str) -> str:
    """The last word of a direction: the symbol, where it has one."""
    return label(name.split()[-1] if name.split() else name)


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
