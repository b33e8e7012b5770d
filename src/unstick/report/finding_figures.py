"""Where searches for critical points went and ended.

Answers: how far did ‖g‖² fall, and which kind of point is at which loss?
Does not answer: what a point is; the search's own rule does.
"""

import math
from collections.abc import Mapping

from unstick.critical.found import OUTCOMES, Found, Search
from unstick.report.figures import Figure, Table, Trace, amount, axis, figure_layout, numbers

__all__ = ["ends_figure", "founds_table", "ways_figure"]

COLORS: Mapping[str, str] = {
    "critical": "@escape",
    "gradient-flat": "@predicted",
    "neither": "@noise",
}
SYMBOLS: Mapping[str, str] = {"critical": "circle", "gradient-flat": "diamond", "neither": "x"}
MOST = 60  # ways that one figure shows


def ways_figure(founds: tuple[Found, ...]) -> Figure | None:
    """‖g‖² after each step of every search."""
    shown = [found for found in founds if len(found.squares)][:MOST]
    if not shown:
        return None
    traces: list[Trace] = []
    seen: set[str] = set()
    for found in shown:
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": list(range(len(found.squares))),
                "y": [value or None for value in numbers(found.squares)],
                "name": found.outcome,
                "legendgroup": found.outcome,
                "showlegend": found.outcome not in seen,
                "line": {"color": COLORS[found.outcome], "width": 1.6},
                "hovertemplate": f"step %{{x}}: ‖g‖² %{{y:.3g}}<extra>{found.outcome}</extra>",
            }
        )
        seen.add(found.outcome)
    cutoff = max(found.cutoff for found in shown)
    layout = figure_layout(
        xaxis=axis("accepted step", rangemode="tozero"), yaxis=axis("‖g‖²", type="log", dtick=4)
    )
    layout["shapes"] = [_level(cutoff)] if cutoff > 0 else []
    left = f" Shown: the first {MOST} of {len(founds)}." if len(founds) > MOST else ""
    least = min(found.gradient_norm_squared for found in shown)
    caption = (
        f"Dotted: the largest cut-off, {amount(cutoff)}; below it a point may be critical. A search that stalls above it "
        f"has found a place where ‖g‖ is smallest, and nothing more.{left}"
    )
    return Figure(
        "ways", f"‖g‖² fell to {amount(least)}", caption, traces, layout, wide=True, tall=380
    )


def ends_figure(search: Search) -> Figure | None:
    """The minimum ratio against the loss, each end colored by whether it truly is critical."""
    known = [found for found in search.founds if found.minimum_ratio is not None]
    if len(known) < 2:
        return None
    traces: list[Trace] = []
    for outcome in OUTCOMES:
        ends = [found for found in known if found.outcome == outcome]
        if not ends:
            continue
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": numbers([found.loss for found in ends]),
                "y": numbers([found.minimum_ratio or 0.0 for found in ends]),
                "text": [f"‖g‖² {amount(found.gradient_norm_squared)}" for found in ends],
                "name": f"{outcome} ({len(ends)})",
                "marker": {"color": COLORS[outcome], "symbol": SYMBOLS[outcome], "size": 9},
                "hovertemplate": f"{outcome}<br>loss %{{x:.5g}}, ratio %{{y:.4g}}<br>%{{text}}<extra></extra>",
            }
        )
    genuine = sum(found.outcome == "critical" for found in known)
    return Figure(
        "ends",
        f"{genuine} of {len(known)} ends are critical points",
        "The minimum ratio, positive eigenvalues over all, against the loss. A curve through all ends appears whether or not they are "
        "critical; only the circles are.",
        traces,
        figure_layout(xaxis=axis("loss"), yaxis=axis("minimum ratio", range=[-0.03, 1.03])),
        wide=True,
        tall=400,
    )


def founds_table(search: Search) -> Table:
    """Every start and where it ended, the lowest loss first."""
    ordered = sorted(enumerate(search.founds), key=lambda pair: _order(pair[1]))
    rows = tuple(
        (
            str(start),
            found.outcome,
            amount(found.loss),
            amount(found.gradient_norm_squared),
            "" if found.inertia is None else "{}, {}, {}".format(*found.inertia),
            "" if found.minimum_ratio is None else amount(found.minimum_ratio),
            found.ended,
            amount(found.start_loss),
        )
        for start, found in ordered
    )
    header = ("start", "outcome", "loss", "‖g‖²", "n₊, n₀, n₋", "ratio", "ended", "loss at start")
    return Table(header, rows)


def _order(found: Found) -> float:
    return found.loss if math.isfinite(found.loss) else math.inf


def _level(height: float) -> Trace:
    line = {"color": "@ink", "width": 1, "dash": "dot"}
    return {
        "type": "line",
        "xref": "paper",
        "yref": "y",
        "x0": 0,
        "x1": 1,
        "y0": height,
        "y1": height,
        "line": line,
    }
