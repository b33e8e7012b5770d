"""What a figure of the report is made of: traces, axes and words, with color left to the page.

A color is written as a role, such as ``"@measured"``. The page replaces roles by the colors of its palette
whenever it draws, so that one figure serves light, dark and paper. Nothing here smooths or drops a value: what
cannot be drawn (inf and nan, a zero on a logarithmic axis) is counted, so that the caption can say so.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from unstick.record import number

__all__ = [
    "LEGEND",
    "Figure",
    "Table",
    "Trace",
    "Window",
    "amount",
    "axis",
    "counted",
    "figure_layout",
    "label",
    "log_axis",
    "numbers",
    "unseen",
    "zero_band",
]

Trace = dict[str, Any]
"""One trace or one layout as Plotly reads it; its colors are roles."""

LEGEND: Trace = {
    "orientation": "h",
    "x": 0,
    "y": 1.04,
    "xanchor": "left",
    "yanchor": "bottom",
    "traceorder": "normal",
}
"""Above the figure, in the order of the traces."""


FEW_DECADES = 2.5
"""A logarithmic axis over more powers of ten has no ticks between them."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure with the words around it."""

    name: str  # unique on a page; becomes its id
    title: str  # what is seen, in plain words
    caption: str  # how to read it, and what is not drawn
    traces: Sequence[Trace]
    layout: Trace
    wide: bool = True  # over the full width of the page, or beside another one
    tall: int = 360  # height in pixels
    flat: bool = True  # False: a surface in space
    least: int = 0  # pixels that it needs; a narrower screen scrolls it


@dataclass(frozen=True, slots=True)
class Table:
    """Rows that a reader compares."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    wraps: bool = False  # cells hold sentences, one a line


@dataclass(frozen=True, slots=True)
class Window:
    """The part of an axis that is shown, and how many finite values lie outside."""

    low: float
    high: float
    outside: int = 0
    hidden_top: float = field(default=math.nan)  # the largest value outside

    def near(self, values: Tensor) -> Tensor:
        """Values that a browser can place: a thousand heights outside, a line is upright anyway."""
        far = 1000 * (self.high - self.low)
        return torch.where(
            torch.isfinite(values), values.clamp(self.low - far, self.high + far), values
        )

    def padded(self) -> list[float]:
        """The window with a little air, as an axis range."""
        air = 0.06 * (self.high - self.low) or max(abs(self.high), 1.0) * 1e-6
        return [self.low - air, self.high + air]


def label(text: str) -> str:
    """A user's text for a figure; Plotly reads a little HTML, which must not come from there."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def amount(value: object) -> str:
    """A number, or what prints as numbers, with true minus signs: for captions and cards."""
    text = number(value) if value is None or isinstance(value, float | int) else str(value)
    return text.replace("-", "−")


def numbers(values: Tensor | Iterable[float]) -> list[float | None]:
    """Values to six digits, as drawn; what is not finite leaves a gap."""
    listed = values.detach().cpu().double().tolist() if isinstance(values, Tensor) else values
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in listed]


def counted(count: int, one: str, many: str = "") -> str:
    """A count with its noun: ``1 point``, ``2,048 points``."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def unseen(values: Tensor, noun: str, places: str = "") -> str:
    """A sentence on the values that are not finite; empty when all are."""
    missing = int((~torch.isfinite(values)).sum())
    return (
        f" Not drawn: {counted(missing, noun)} where the loss is inf or nan{places}."
        if missing
        else ""
    )


def axis(title: str, **more: object) -> Trace:
    """An axis with its title and unit, in the look of the report."""
    return {
        "title": {"text": title, "standoff": 10},
        "gridcolor": "@grid",
        "linecolor": "@grid",
        "zerolinecolor": "@axis",
        "tickcolor": "@grid",
        "tickfont": {"color": "@muted"},
        "exponentformat": "power",
        "automargin": True,
        **more,
    }


def log_axis(title: str, low: float, high: float, **more: object) -> Trace:
    """A logarithmic axis for positive values: 1, 2 and 5 of each decade where there are few, else powers of ten."""
    decades = math.log10(high / low)
    if decades > FEW_DECADES:
        return axis(title, type="log", dtick=math.ceil(decades / 6), **more)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    ticks = [float(f"{m}e{power}") for power in range(first - 1, last + 1) for m in (1, 2, 5)]
    texts = [amount(tick) for tick in ticks]
    return axis(title, type="log", tickmode="array", tickvals=ticks, ticktext=texts, **more)


def figure_layout(**more: object) -> Trace:
    """The layout that all figures share, with what this one adds."""
    return {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {
            "family": "system-ui, -apple-system, Segoe UI, Roboto, sans-serif",
            "size": 13,
            "color": "@ink",
        },
        "margin": {"l": 64, "r": 16, "t": 16, "b": 52},
        "legend": {**LEGEND},
        "hoverlabel": {"bgcolor": "@card", "bordercolor": "@grid", "font": {"color": "@ink"}},
        "hovermode": "closest",
        "dragmode": False,
        **more,
    }


def zero_band(tau: float, *, yref: str = "paper") -> list[Trace]:
    """The band ±tau in which a curvature counts as zero; its edges stay visible when it is thin."""
    if not (math.isfinite(tau) and tau > 0):
        return []
    place = {"xref": "x", "yref": yref, "x0": -tau, "x1": tau, "y0": 0, "y1": 1, "layer": "below"}
    return [
        {"type": "rect", "fillcolor": "@zero", "line": {"color": "@noise", "width": 1}, **place}
    ]
