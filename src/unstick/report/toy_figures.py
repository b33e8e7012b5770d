"""Toy surfaces: from above and in space, with points, moving paths, models and chords.

Answers: what does it look like, what moves where, and how does the measured number compare with the closed form?
Does not answer: what was measured how; ``studies.toys`` does.

What moves is told to the page in ``meta``: a trace's ``at`` holds the step of each of its points, ``keeps`` how many of
the last ones are shown; a layout's ``steps`` are the steps to play, ``group`` the figures that play together and
``choices`` the traces that a button shows. The figure itself holds everything, so it is whole on paper.
"""

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from unstick.critical.point import Kind
from unstick.landscape.plane import Plane
from unstick.record import number
from unstick.report.figures import (
    LEGEND,
    Figure,
    Table,
    Trace,
    Window,
    amount,
    axis,
    counted,
    figure_layout,
    numbers,
)
from unstick.studies.toys import Chord, Cut, Ground, Spot, Taylor, Toy, Trail

__all__ = ["checks_table", "steps_table", "toy_figures"]

FLAT = ("feature-scaling",)
"""Toys whose surface is too narrow a trench to be seen in space."""

STEEP = 4.0
"""A surface is cut where the loss exceeds its lowest value by this many times what it does at the median."""

LAND = [[k / 4, f"@land-{k}"] for k in range(5)]

SYMBOLS = {
    Kind.SADDLE: "x",
    Kind.MINIMUM: "circle",
    Kind.MAXIMUM: "square",
    Kind.NOT_CRITICAL: "diamond",
    Kind.DEGENERATE: "cross",
    Kind.UNDECIDED: "diamond-open",
}
"""A mark for each kind of point, of those that Plotly has in the plane and in space alike."""

DEEPEST = 1e-9
"""Losses below this part of the highest lie under the edge of a logarithmic picture."""

ARM = 0.16
"""Half the length of the arms that show the directions of curvature, in widths of the picture."""


def toy_figures(toy: Toy) -> list[Figure]:
    """Draw a toy: its curves, its surfaces from above and in space, its losses, and the errors of its models."""
    steps, alone = _steps(toy.grounds), len(toy.grounds) == 1
    cuts = [_cut_figure(cut, f"cut-{at + 1}") for at, cut in enumerate(toy.cuts)]
    above, courses, errors, space = [], [], [], []
    for at, ground in enumerate(toy.grounds):
        above.append(_above(ground, f"above-{at + 1}", steps, alone=alone))
        if any(path.moves for path in ground.paths):
            courses.append(_course(ground, f"course-{at + 1}", steps, toy))
        if ground.taylors:
            errors.append(_errors(ground.taylors, f"errors-{at + 1}"))
    if toy.grounds and toy.name not in FLAT:
        space.append(_in_space(toy.grounds[0], "space", steps, wide=not alone or bool(errors)))
    if errors:
        return [*cuts, *space, *above, *errors, *courses]
    return [*cuts, *above, *space, *courses] if alone else [*cuts, *above, *courses, *space]


def steps_table(toy: Toy) -> Table | None:
    """Steps to the goal, a row for each optimizer and surface; nothing without a goal."""
    rows = [
        (
            path.name,
            ground.name,
            amount(path.lr),
            ", ".join(amount(rate) for rate in path.tried) or "—",
            f"{path.reached:,}" if path.reached is not None else f"not in {int(path.steps[-1]):,}",
        )
        for ground in toy.grounds
        for path in ground.paths
        if toy.goal and path.lr is not None
    ]
    header = ("Path", "Surface", "Rate", "Fastest of", f"Steps to {toy.goal}")
    return Table(header, tuple(rows)) if rows else None


def checks_table(toy: Toy) -> Table | None:
    """Every measured number beside its closed form; nothing without any."""
    rows = [
        (check.name, number(check.measured, 6), number(check.expected, 6) if check.expected is not None else "—", check.formula)
        for check in toy.checks
    ]  # fmt: skip
    header = ("What", "Measured", "Closed form", "Which is")
    return Table(header, tuple(rows)) if rows else None


def _above(ground: Ground, name: str, steps: Sequence[int], *, alone: bool) -> Figure:
    """The surface from above with everything on it."""
    window = _window(ground.plane)
    traces = [_contour(ground.plane, window)]
    saddles = [spot for spot in ground.spots if spot.point.kind == Kind.SADDLE]
    traces += [arm for spot in saddles[:1] for arm in _arms(spot, ground.plane)]
    for color, path in _colored(ground.paths):
        known = {trace.get("name") for trace in traces}
        drawn = _trail(path, color, ground.plane)
        if path.name in known:  # another piece of the same set
            drawn[0]["showlegend"] = False
        traces += drawn
    traces += [_mark(spot, ground.plane) for spot in ground.spots]
    layout = figure_layout(
        xaxis=axis(
            ground.plane.x_name, zeroline=False, range=_span(ground.plane.x), constrain="domain"
        ),
        yaxis=axis(
            ground.plane.y_name,
            zeroline=False,
            range=_span(ground.plane.y),
            **_to_scale(ground.plane),
        ),
        legend={**LEGEND},
        meta=_playing(steps),
    )
    title = "From above" if alone else _capital(ground.name)
    caption = (
        f"Color is the loss, from dark where it is low; lines join equal losses.{_cut_off(window)}"
        f"{_arms_told(ground)}{_leap_told(ground)}{_stretch_told(ground.plane)}"
    )
    return Figure(name, title, caption, traces, layout, wide=False, tall=480)


def _in_space(ground: Ground, name: str, steps: Sequence[int], *, wide: bool) -> Figure:
    """The surface in space; the models of second order lie over it, one at a time."""
    window = _window(ground.plane)
    traces = [_surface(ground.plane, window)]
    choices: list[Trace] = []
    for model in ground.taylors:
        choices.append({"name": model.name, "shows": [len(traces)]})
        traces.append(_model(model, window, visible=len(choices) == 1))
    for color, path in _colored(ground.paths):
        traces += _trail(path, color, ground.plane, window=window)
    traces += [_ball(spot) for spot in ground.spots]
    layout = figure_layout(
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        dragmode="orbit",
        showlegend=False,
        scene={
            "xaxis": _scene_axis(ground.plane.x_name),
            "yaxis": _scene_axis(ground.plane.y_name),
            "zaxis": _scene_axis("", range=window.padded()),
            "annotations": [_flag(spot, at) for at, spot in enumerate(ground.spots)],
            "aspectmode": "manual",
            "aspectratio": {"x": 1.15, "y": 1.15, "z": 0.75},
            "camera": _camera(ground.plane),
        },
        meta={**_playing(steps), **({"choices": choices} if choices else {})},
    )
    over = (
        " Over it lies the model of second order at one point: pick which. It has the surface's value, slope and "
        "curvature there."
        if choices
        else ""
    )
    caption = f"Height is the loss; turn it with the mouse or a finger.{over}{_cut_off(window)}"
    return Figure(
        name,
        "As a landscape",
        caption,
        traces,
        layout,
        wide=wide,
        tall=560 if wide else 480,
        flat=False,
    )


def _course(ground: Ground, name: str, steps: Sequence[int], toy: Toy) -> Figure:
    """The losses of all paths against the steps."""
    moving = [(color, path) for color, path in _colored(ground.paths) if path.moves]
    losses = torch.cat([path.losses for _, path in moving])
    top, floor = float(losses.max()), max(float(losses.min()), DEEPEST * float(losses.max()))
    decades = float(losses.min()) > 0 and top > 30 * floor
    traces = [trace for color, path in moving for trace in _curve(path, color)]
    scale: Trace = {}
    if decades:
        bottom, roof = math.log10(floor), math.log10(top)
        air = 0.05 * (roof - bottom)
        scale = {"type": "log", "dtick": 1 if roof - bottom < 4 else 2, "range": [bottom - air, roof + air]}  # fmt: skip
    layout = figure_layout(
        xaxis=axis("step", rangemode="tozero", zeroline=False),
        yaxis=axis("loss", zeroline=False, **scale),
        showlegend=len(moving) > 1,
        legend={**LEGEND},
        meta=_playing(steps),
    )
    several = len(toy.grounds) > 1
    goal = f" Arrived is {toy.goal}." if toy.goal else ""
    told = " The axis of losses is logarithmic." if decades else ""
    below = int((losses < floor).sum()) if decades else 0
    lower = f" {counted(below, 'loss', 'losses')} below {amount(floor)} lie under its edge." if below else ""  # fmt: skip
    title = f"The losses along the paths{', ' + ground.name if several else ''}"
    caption = f"The loss measured after each step.{told}{lower}{goal}"
    return Figure(name, title, caption, traces, layout, wide=not several, tall=400)


def _curve(path: Trail, color: str) -> Iterator[Trace]:
    """The losses of one path, and a dot at the step that is shown."""
    place: Trace = {"x": path.steps.tolist(), "y": numbers(path.losses)}
    meta = {"at": path.steps.tolist()}
    hover = f"{path.name}<br>step %{{x}}, loss %{{y:.4g}}<extra></extra>"
    line = {"color": color, "width": 2}
    yield {"type": "scatter", "mode": "lines", **place, "name": path.name, "line": line, "hovertemplate": hover}  # fmt: skip
    marker = {"color": color, "size": 9, "line": {"color": "@page", "width": 1.5}}
    yield {"type": "scatter", "mode": "markers", **place, "marker": marker, "showlegend": False, "hoverinfo": "skip", "meta": {**meta, "keeps": 1}}  # fmt: skip


def _errors(models: Sequence[Taylor], name: str) -> Figure:
    """How far each model is off, against the distance."""
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "x": numbers(model.distances),
            "y": numbers(torch.where(model.errors > 0, model.errors, torch.nan)),
            "name": f"{model.name}: order {amount(round(model.order, 2))}",
            "line": {"color": f"@path-{at % 5}", "width": 2},
            "marker": {"color": f"@path-{at % 5}", "size": 5},
            "hovertemplate": f"{model.name}<br>distance %{{x:.3g}}: off by %{{y:.3g}}<extra></extra>",
        }
        for at, model in enumerate(models)
    ]
    layout = figure_layout(
        xaxis=axis("distance from the point", type="log", dtick=1),
        yaxis=axis("largest error", type="log", dtick=2),
    )
    caption = (
        "The largest difference between the loss and its model at each distance, over all directions; both axes are "
        "logarithmic. A line of slope 3 says that value, slope and curvature agree and the third derivative is left."
    )
    title = "How far the model can be trusted"
    return Figure(name, title, caption, traces, layout, wide=False, tall=480)


def _cut_figure(cut: Cut, name: str) -> Figure:
    """A curve with its points and its chords."""
    curve = {
        "type": "scatter",
        "mode": "lines",
        "x": numbers(cut.x),
        "y": numbers(cut.losses),
        "name": "loss",
        "line": {"color": "@measured", "width": 2.5},
        "hovertemplate": f"{cut.x_name} = %{{x:.3g}}<br>loss %{{y:.4g}}<extra></extra>",
    }
    traces: list[Trace] = [curve]
    meta: Trace = {}
    for chord in cut.chords:
        traces += _chord(chord)
        worst = int((chord.losses - chord.chord).abs().argmax())
        meta = {"steps": list(range(len(chord.x))), "rest": worst, "group": name, "word": "along the chord"}  # fmt: skip
    for spot in cut.spots:
        traces.append(_place(spot, float(spot.at[0]), spot.point.loss, cut.x, cut.losses))
    layout = figure_layout(
        xaxis=axis(cut.x_name, zeroline=False),
        yaxis=axis("loss", zeroline=False),
        meta=meta,
    )
    broken = max((chord.violation for chord in cut.chords), default=None)
    if broken is None:
        told = "The curve is the loss as measured; the marks are classified points."
    elif broken > 0:
        told = (
            f"The dashed chord joins two points of the curve; the curve exceeds it by up to {amount(broken)}, so the "
            "function is not convex. The bar is the difference between the two."
        )
    else:
        told = "The dashed chord joins two points of the curve, which is nowhere above it. The bar is the difference between the two."
    return Figure(name, _capital(cut.name), told, traces, layout, wide=not cut.chords, tall=400)


def _chord(chord: Chord) -> Iterator[Trace]:
    """The straight line, and a bar from it to the curve that moves along it."""
    color = "@down" if chord.violation > 0 else "@escape"
    yield {
        "type": "scatter",
        "mode": "lines",
        "x": numbers(chord.x),
        "y": numbers(chord.chord),
        "name": "chord",
        "line": {"color": "@predicted", "width": 2, "dash": "dash"},
        "hovertemplate": "chord %{y:.4g}<extra></extra>",
    }
    pairs = torch.stack([chord.chord, chord.losses], dim=1).flatten()
    at = torch.arange(len(chord.x)).repeat_interleave(2).tolist()
    yield {
        "type": "scatter",
        "mode": "lines+markers",
        "x": numbers(chord.x.repeat_interleave(2)),
        "y": numbers(pairs),
        "name": "difference",
        "line": {"color": color, "width": 4},
        "marker": {"color": color, "size": 8},
        "hovertemplate": "%{y:.4g}<extra></extra>",
        "meta": {"at": at, "keeps": 2},
    }


def _trail(path: Trail, color: str, plane: Plane, *, window: Window | None = None) -> list[Trace]:
    """A path, and a ball at its end; in space where a window of heights is given."""
    x, y = path.points.T
    place: Trace = {"x": numbers(x), "y": numbers(y)}
    if window is not None:
        lift = 0.012 * (window.high - window.low)  # above the surface, which would hide it
        over = (x >= plane.x[0]) & (x <= plane.x[-1]) & (y >= plane.y[0]) & (y <= plane.y[-1])
        heights = (path.losses + lift).clamp_max(window.high)
        place["z"] = numbers(torch.where(over, heights, torch.nan))
    flat = window is None
    stops = path.lr is not None and flat
    pairs = zip(path.steps.tolist(), path.losses.tolist(), strict=True)
    look: Trace = {
        "type": "scatter" if flat else "scatter3d",
        **place,
        "name": path.name,
        "text": [f"step {step:,}, loss {amount(loss)}" for step, loss in pairs],
        "hovertemplate": f"{path.name}<br>%{{text}}<extra></extra>",
    }
    if not path.moves:
        dotted = {"color": color, "width": 2 if flat else 4, "dash": "dot"}
        return [{**look, "mode": "lines", "line": dotted, "legendgroup": path.name}]
    at = path.steps.tolist()
    line = {
        **look,
        "mode": "lines+markers" if stops else "lines",
        "line": {"color": color, "width": 2 if flat else 5},
        "marker": {"color": color, "size": 4},
        "meta": {"at": at},
    }
    edge = {"color": "@page", "width": 1.5}
    ball = {
        **look,
        "mode": "markers",
        "marker": {"color": color, "size": 11 if flat else 5, "line": edge},
        "showlegend": False,
        "meta": {"at": at, "keeps": 1},
    }
    return [line, ball]


def _contour(plane: Plane, window: Window) -> Trace:
    return {
        "type": "contour",
        **_grid(plane, window),
        "colorscale": LAND,
        "zauto": False,
        "zmin": window.low,
        "zmax": window.high,
        "ncontours": 22,
        "line": {"width": 0.7, "color": "@land-line"},
        "showscale": False,
        "showlegend": False,
        "hovertemplate": "%{x:.4g}, %{y:.4g}<br>loss %{z:.5g}<extra></extra>",
    }


def _surface(plane: Plane, window: Window) -> Trace:
    return {
        "type": "surface",
        **_grid(plane, window),
        "colorscale": LAND,
        "cauto": False,
        "cmin": window.low,
        "cmax": window.high,
        "showscale": False,
        "lighting": {"ambient": 0.7, "diffuse": 0.6, "specular": 0.05, "roughness": 0.9},
        "contours": {"z": {"show": True, "usecolormap": False, "color": "@land-line", "width": 1}},
        "hovertemplate": "%{x:.4g}, %{y:.4g}<br>loss %{z:.5g}<extra></extra>",
    }


def _model(model: Taylor, window: Window, *, visible: bool) -> Trace:
    """The model of second order as a patch of one color."""
    inside = torch.where(
        (model.losses >= window.low) & (model.losses <= window.high), model.losses, torch.nan
    )
    return {
        "type": "surface",
        "x": numbers(model.x),
        "y": numbers(model.y),
        "z": [numbers(row) for row in inside],
        "colorscale": [[0, "@predicted"], [1, "@predicted"]],
        "showscale": False,
        "opacity": 0.8,
        "visible": visible,
        "lighting": {"ambient": 0.8, "diffuse": 0.4, "specular": 0.05},
        "hovertemplate": f"model at {model.name}<br>%{{z:.4g}}<extra></extra>",
    }


def _arms(spot: Spot, plane: Plane) -> Iterator[Trace]:
    """At a saddle, the directions in which the loss curves down and up."""
    reach = ARM * float(plane.x[-1] - plane.x[0])
    for value, v in zip(spot.point.eigenvalues.tolist(), spot.axes.T, strict=True):
        ends = torch.stack([spot.at - reach * v, spot.at + reach * v])
        down = value < 0
        name = f"{'down' if down else 'up'}, λ = {amount(value)}"
        yield {
            "type": "scatter",
            "mode": "lines",
            "x": numbers(ends[:, 0]),
            "y": numbers(ends[:, 1]),
            "name": name,
            "line": {"color": "@escape" if down else "@down", "width": 4},
            "hovertemplate": f"the loss curves {name}<extra></extra>",
        }


def _mark(spot: Spot, plane: Plane) -> Trace:
    """A classified point, from above."""
    return _place(spot, float(spot.at[0]), float(spot.at[1]), plane.x, plane.y)


def _place(spot: Spot, x: float, y: float, across: Tensor, up: Tensor) -> Trace:
    """A mark with its words on the side where there is room."""
    part = (x - float(across[0])) / float(across[-1] - across[0])
    side = "right" if part < 0.17 else "left" if part > 0.83 else "center"
    high = (y - float(up.min())) / float(up.max() - up.min()) > 0.85
    curvatures = ", ".join(amount(value) for value in spot.point.eigenvalues.tolist())
    told = f"{spot.name}: {spot.point.kind}<br>loss {amount(spot.point.loss)}<br>eigenvalues {curvatures}"
    return {
        "type": "scatter",
        "mode": "markers+text",
        "x": numbers([x]),
        "y": numbers([y]),
        "name": _named(spot),
        "text": [_named(spot)],
        "textposition": f"{'bottom' if high else 'top'} {side}",
        "textfont": {"color": "@ink", "size": 12},
        "cliponaxis": False,
        "showlegend": False,
        "marker": _marker(spot, 12),
        "hovertemplate": f"{told}<extra></extra>",
    }


def _ball(spot: Spot) -> Trace:
    """A classified point, in space."""
    x, y = spot.at.tolist()
    told = f"{_named(spot)}<br>loss {amount(spot.point.loss)}"
    return {
        "type": "scatter3d",
        "mode": "markers",
        "x": numbers([x]),
        "y": numbers([y]),
        "z": numbers([spot.point.loss]),
        "marker": _marker(spot, 6),
        "hovertemplate": f"{told}<extra></extra>",
    }


def _flag(spot: Spot, at: int) -> Trace:
    """A name over a mark: it stays readable where the surface hides the mark; each second one is higher."""
    x, y = spot.at.tolist()
    place = {"x": x, "y": y, "z": spot.point.loss, "ax": 0, "ay": -58 if at % 2 else -32}
    look = {
        "arrowhead": 0,
        "arrowwidth": 1.5,
        "arrowcolor": "@ink",
        "bgcolor": "@page",
        "bordercolor": "@axis",
    }
    name = _named(spot) if spot.point.kind == Kind.SADDLE else spot.name
    return {"text": name, "font": {"color": "@ink", "size": 12}, "borderpad": 3, **place, **look}  # fmt: skip


def _marker(spot: Spot, size: int) -> Trace:
    edge = {"color": "@mark-edge", "width": 1.5}
    return {"symbol": SYMBOLS[spot.point.kind], "size": size, "color": "@mark", "line": edge}


def _named(spot: Spot) -> str:
    """A point's name with its kind, unless the name says it."""
    kind = str(spot.point.kind).replace("-", " ")
    return spot.name if kind in spot.name else f"{spot.name}: {kind}"


def _colored(paths: Iterable[Trail]) -> Iterator[tuple[str, Trail]]:
    """Each path with its color, the same in all figures of a page."""
    at = 0
    for path in paths:
        if not path.moves:
            yield "@ink", path
        elif path.lr is None:
            yield "@escape", path
        else:
            yield f"@path-{at % 5}", path
            at += 1


def _steps(grounds: Sequence[Ground]) -> list[int]:
    """All steps that some path of the page has a point at."""
    kept = {step for ground in grounds for path in ground.paths if path.moves for step in path.steps.tolist()}  # fmt: skip
    return sorted(kept)


def _playing(steps: Sequence[int]) -> Trace:
    return {"steps": list(steps), "group": "paths", "word": "step"} if steps else {}


def _window(plane: Plane) -> Window:
    """From the lowest loss up to where walls would flatten all the rest."""
    finite = plane.losses[torch.isfinite(plane.losses)]
    low, top = float(finite.min()), float(finite.max())
    high = min(top, low + STEEP * (float(finite.median()) - low))
    return Window(low, high, int((finite > high).sum()), top)


def _grid(plane: Plane, window: Window) -> Trace:
    """Heights as drawn; those above the window end at it."""
    rows = [numbers(row) for row in plane.losses.clamp_max(window.high)]
    return {"x": numbers(plane.x), "y": numbers(plane.y), "z": rows}


def _span(at: Tensor) -> list[float]:
    return [float(at[0]), float(at[-1])]


def _cut_off(window: Window) -> str:
    return (
        f" Losses above {amount(window.high)}, {counted(window.outside, 'grid point')} up to {amount(window.hidden_top)}, "
        "are drawn at that height."
        if window.outside
        else ""
    )


def _arms_told(ground: Ground) -> str:
    saddles = any(spot.point.kind == Kind.SADDLE for spot in ground.spots)
    return (
        " The bars at a saddle are the eigenvectors of its Hessian: down along one, up along the other."
        if saddles
        else ""
    )


def _leap_told(ground: Ground) -> str:
    leaps = any(path.moves and path.lr is None for path in ground.paths)
    return " The escape is one leap, played as 24 steps." if leaps else ""


def _ratio(plane: Plane) -> float:
    """How many times as far the picture reaches across as up."""
    return float((plane.x[-1] - plane.x[0]) / (plane.y[-1] - plane.y[0]))


def _to_scale(plane: Plane) -> Trace:
    """One unit for both axes where the picture is about square, so that circles are circles on any screen."""
    square = 0.7 < _ratio(plane) < 1.5
    return {"scaleanchor": "x", "constrain": "domain", "constraintoward": "top"} if square else {}


def _stretch_told(plane: Plane) -> str:
    """A warning where the picture is not to scale, which turns directions and squeezes circles."""
    if _to_scale(plane):
        return ""
    ratio = _ratio(plane)
    high, wide = (plane.y_name, plane.x_name) if ratio > 1 else (plane.x_name, plane.y_name)
    return f" {high} is drawn {amount(round(max(ratio, 1 / ratio)))} times as large as {wide}."


def _camera(plane: Plane) -> Trace:
    """The eye over the lowest corner, so that no wall hides the valley."""
    half = len(plane.x) // 2, len(plane.y) // 2
    right, left = plane.losses[:, half[0] :].mean(), plane.losses[:, : half[0]].mean()
    upper, lower = plane.losses[half[1] :].mean(), plane.losses[: half[1]].mean()
    eye = {"x": -1.15 if right > left else 1.15, "y": -1.35 if upper >= lower else 1.35, "z": 1.1}
    return {"eye": eye, "center": {"x": 0, "y": 0, "z": -0.2}}


def _scene_axis(title: str, **more: object) -> Trace:
    return {
        "title": {"text": title},
        "color": "@muted",
        "gridcolor": "@grid",
        "zerolinecolor": "@axis",
        "showbackground": False,
        "nticks": 5,
        "showspikes": False,
        **more,
    }


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
