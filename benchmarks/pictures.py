"""The picture of ``curvature.py``: true residual against time in gradients, for every contestant."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import plotly.graph_objects as go
from plotly.subplots import make_subplots
from race import Point
from reference import WANTED_HIGH, WANTED_LOW

__all__ = ["draw"]

COLORS = ("#d62728", "#1f77b4", "#2ca02c", "#9467bd")


def draw(points: Sequence[Point], folder: Path) -> list[str]:
    """Write curvature.html, and curvature.png where kaleido and a browser are; says what was written."""
    workloads = list(dict.fromkeys(point.workload for point in points))
    contestants = list(dict.fromkeys(point.contestant for point in points))
    titles = [f"{name}: {what}" for name in workloads for what in ("top five (the worst)", "λmin")]
    figure = make_subplots(len(workloads), 2, subplot_titles=titles)
    for row, workload in enumerate(workloads, start=1):
        for column, (end, wanted) in enumerate((("high", WANTED_HIGH), ("low", WANTED_LOW)), 1):
            for color, contestant in zip(COLORS, contestants, strict=False):
                curve = sorted(
                    (point.gradients, getattr(point, end))
                    for point in points
                    if (point.workload, point.contestant) == (workload, contestant)
                )
                curve = [(x, y) for x, y in curve if y == y]  # nan: it cannot
                figure.add_trace(
                    go.Scatter(
                        x=[x for x, _ in curve],
                        y=[y for _, y in curve],
                        name=contestant,
                        legendgroup=contestant,
                        showlegend=row == column == 1,
                        mode="lines+markers",
                        line={"color": color, "width": 3 if contestant == "unstick" else 1.5},
                    ),
                    row,
                    column,
                )
            add_line = cast("Any", figure.add_hline)  # its stub wants "all" only
            add_line(wanted, line_dash="dot", line_color="gray", row=row, col=column)
    figure.update_xaxes(type="log", title="time, in gradients")
    figure.update_yaxes(type="log", title="‖Hv − λv‖ / |λ|", exponentformat="power")
    figure.update_layout(
        template="plotly_white",
        width=1100,
        height=120 + 380 * len(workloads),
        title="True residual against time, from one random start; dotted: what is wanted",
    )
    folder.mkdir(exist_ok=True)
    written = [f"picture: {folder / 'curvature.html'}"]
    figure.write_html(folder / "curvature.html")
    try:
        figure.write_image(folder / "curvature.png", scale=2)
        written.append(f"picture: {folder / 'curvature.png'}")
    except (ImportError, ValueError, RuntimeError) as error:
        written.append(f"no curvature.png: {str(error).strip().splitlines()[0]}")
    return written
