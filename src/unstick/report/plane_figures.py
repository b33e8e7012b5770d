"""The plane of two directions, from above and as a landscape, with what else was measured over it.

Answers: what does the loss look like here, and where in it does a path lead?
Does not answer: what lies outside the plane; the other directions are not drawn.
"""

import torch
from torch import Tensor

from unstick.critical.escaping import Escape
from unstick.landscape.plane import Plane
from unstick.report.figures import (
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

__all__ = ["contour", "plane_figures", "window_of"]

STEEP = 6.0
"""A plane is cut where the loss exceeds its lowest value by this many times what it does at the median."""

SCALE = [
    [0.0, "@level-0"],
    [0.25, "@level-1"],
    [0.5, "@level-2"],
    [0.75, "@level-3"],
    [1.0, "@level-4"],
]


def plane_figures(plane: Plane, escape: Escape | None, *, noise: float = 0.0) -> list[Figure]:
    """The plane from above and as a surface, then accuracy and gradient norm; nothing when no loss is finite."""
    if not bool(torch.isfinite(plane.losses).any()):
        return []
    window = window_of(plane)
    cut = (
        f" Colors and height end at {amount(window.high)}: {counted(window.outside, 'value')} above, "
        f"up to {amount(window.hidden_top)}, are cut off."
        if window.outside
        else ""
    )
    missing = unseen(plane.losses.flatten(), "grid point")
    marked, apart = _marks(plane, escape)
    above = Figure(
        "plane",
        _plane_title(plane, noise),
        f"The loss over the plane that the two directions span, from above; lines join equal losses."
        f"{apart}{cut}{missing} {_spanned(plane)}{_path_told(plane)}",
        [contour(plane, window), *_path(plane), *(_dot(*mark) for mark in marked)],
        figure_layout(**_axes(plane)),
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
    more = (
        _measure_figure(plane, plane.accuracies, "accuracy", "Accuracy over the same plane"),
        _measure_figure(
            plane, plane.gradient_norms, "gradient norm", "The gradient over the same plane"
        ),
    )
    return [above, surface, *(figure for figure in more if figure is not None)]


def _axes(plane: Plane) -> Trace:
    return {
        "xaxis": axis(f"distance along the {label(plane.x_name)}"),
        "yaxis": axis(f"distance along the {label(plane.y_name)}"),
    }


def _measure_figure(plane: Plane, values: Tensor | None, what: str, title: str) -> Figure | None:
    """Another measure from above; its colors are its own."""
    if values is None or not bool(torch.isfinite(values).any()):
        return None
    finite = values[torch.isfinite(values)]
    trace = {
        "type": "contour",
        "x": numbers(plane.x),
        "y": numbers(plane.y),
        "z": [numbers(row) for row in values],
        "colorscale": SCALE,
        "ncontours": 24,
        "line": {"width": 0.6, "color": "@contour"},
        "colorbar": _colorbar(what),
        "hovertemplate": f"%{{x:.4g}}, %{{y:.4g}}<br>{what} %{{z:.5g}}<extra></extra>",
    }
    here = _dot(0.0, 0.0, _center(values, plane), _origin(plane), "@ink-inverse", what)
    missing = unseen(values.flatten(), "grid point").replace("the loss is", "it is")
    caption = (
        f"From {amount(float(finite.min()))} to {amount(float(finite.max()))}, nothing cut off; lines join equal values."
        f"{missing}"
    )
    return Figure(
        what.replace(" ", "-"),
        title,
        caption,
        [trace, *_path(plane), here],
        figure_layout(**_axes(plane)),
        wide=False,
        tall=440,
    )


def _spanned(plane: Plane) -> str:
    """How the axes came about, and what their unit is."""
    cosine = amount(round(plane.cosine, 3))
    told = (
        f"The two directions met at a cosine of {cosine} and were made perpendicular."
        if plane.perpendicular
        else f"The two directions meet at a cosine of {cosine} and were left so, to keep the lengths of their parts."
    )
    if plane.x_unit != 1.0 or plane.y_unit != 1.0:
        told += (
            f" Axes are distances in parameter space; the directions as given are {amount(plane.x_unit)} and "
            f"{amount(plane.y_unit)} long."
        )
    if plane.curvatures is not None:
        along = " and ".join(amount(value) for value in plane.curvatures)
        told += f" The curvatures at the center along x and y are the eigenvalues {along}."
    return told


def _path_told(plane: Plane) -> str:
    if plane.path is None:
        return ""
    explained = ""
    if plane.explained is not None:
        shares = " and ".join(f"{100 * share:.3g} %" for share in plane.explained)
        explained = f"; the axes hold {shares} of its variance, and those of a random walk would hold much too"
    return f" The line is the training's way, projected on the plane{explained}. Its own losses are not those under the line."


def _path(plane: Plane) -> list[Trace]:
    """A trajectory, with its own losses where one points."""
    if plane.path is None:
        return []
    own = plane.path_losses
    losses = numbers(own) if own is not None else [None] * len(plane.path)
    return [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "x": numbers(plane.path[:, 0]),
            "y": numbers(plane.path[:, 1]),
            "customdata": losses,
            "name": "training",
            "line": {"color": "@mark", "width": 2},
            "marker": {"color": "@mark", "size": 5, "line": {"color": "@mark-edge", "width": 0.8}},
            "hovertemplate": "on the way, loss %{customdata:.5g}<extra></extra>",
        }
    ]


def _origin(plane: Plane) -> str:
    return "this point" if plane.path is None else "where training ended"


def _center(values: Tensor, plane: Plane) -> float:
    return float(values[int(plane.y.abs().argmin()), int(plane.x.abs().argmin())])


def window_of(plane: Plane) -> Window:
    """The losses that colors are spread over; what lies above is counted."""
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
    if fall > 2 * noise:
        return f"From here the plane leads {amount(fall)} down"
    return "No place in this plane is lower"


def _marks(
    plane: Plane, escape: Escape | None
) -> tuple[list[tuple[float, float, float, str, str]], str]:
    """This point, and the escape where it lies in the plane; else a sentence that says so."""
    row, column = int(plane.y.abs().argmin()), int(plane.x.abs().argmin())
    marks = [(0.0, 0.0, float(plane.losses[row, column]), _origin(plane), "@ink-inverse")]
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


def contour(plane: Plane, window: Window) -> Trace:
    """A plane from above."""
    return {
        "type": "contour",
        **_grid(plane, window),
        "colorscale": SCALE,
        "zauto": False,
        "zmin": window.low,
        "zmax": window.high,
        "ncontours": 24,
        "line": {"width": 0.6, "color": "@contour"},
        "colorbar": _colorbar("loss"),
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


def _colorbar(what: str) -> Trace:
    return {
        "title": {"text": what, "side": "top"},
        "thickness": 10,
        "outlinewidth": 0,
        "tickfont": {"color": "@muted"},
        "exponentformat": "power",
    }


def _dot(x: float, y: float, z: float, name: str, color: str, what: str = "loss") -> Trace:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": numbers([x]),
        "y": numbers([y]),
        "name": name,
        "showlegend": True,
        "marker": _marker(name, color, 12),
        "hovertemplate": f"{name}<br>{what} {amount(z)}<extra></extra>",
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
    symbol = "diamond" if name == "escape" else "circle"
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
