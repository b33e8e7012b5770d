"""The figures of a record as PNG pictures, each complete in itself: its title above, its colors those of the light page.

Answers: how does a figure get into a paper, a slide or a README?
Does not answer: what is in the figure (the figure modules).
"""

import math
import re
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from unstick.errors import UnstickError
from unstick.record import Record
from unstick.report.figures import Figure, label
from unstick.report.sections import figures_of

__all__ = ["picture_paths", "save_pictures"]

WIDE, NARROW = 960, 620  # pixels of a picture before it is scaled
SCALE = 2.0  # pixels of the file for each of them
TITLE = 44  # pixels for the title
LEGEND = 26  # pixels for the legend under it
NAMES_A_ROW = {WIDE: 4, NARROW: 2}
SYMBOL, LETTER = 45, 8  # pixels of a name in the legend: its symbol, and each letter
MOVED = ("x", "y", "z", "text")
LONGEST = {WIDE: 100, NARROW: 64}  # letters of a line of the title


def picture_paths(record: Record, path: Path) -> list[tuple[Figure, Path]]:
    """Which figure goes into which file.

    The only figure goes to ``path``; of several, each goes beside it, as ``stem-figure.png``.

    Raises:
        UnstickError: The record has no figure.
    """
    figures = figures_of(record)
    if not figures:
        raise UnstickError(
            f"{type(record).__name__} has no figure to draw; write it as .html or .json instead"
        )
    if len(figures) == 1:
        return [(figures[0], path)]
    return [(figure, path.with_stem(f"{path.stem}-{figure.name}")) for figure in figures]


def save_pictures(
    record: Record, path: Path, *, scale: float = SCALE, only: Collection[str] | None = None
) -> list[Path]:
    """Write the figures of a record as PNG.

    Args:
        record: Any record with figures.
        path: Where to; see ``picture_paths`` for several figures. Files that are there are replaced.
        only: Names of figures; None: every one.
        scale: Pixels of the file for each of the 960 or 620 that a figure is wide.

    Returns:
        The files written.

    Raises:
        UnstickError: There is no figure, no kaleido, or no Chrome or Chromium that it can start.

    Cost:
        About two seconds to start the browser and half a second a figure.
    """
    wanted = [
        (figure, place)
        for figure, place in picture_paths(record, path)
        if only is None or figure.name in only
    ]
    try:
        import kaleido
    except ImportError:
        raise UnstickError(
            "PNG needs kaleido, which is not installed: pip install 'unstick[png]', or write .html"
        ) from None
    engine: Any = kaleido
    try:
        engine.start_sync_server(silence_warnings=True)
        try:
            for figure, place in wanted:
                drawn, size = drawing(figure)
                place.write_bytes(
                    engine.calc_fig_sync(drawn, opts={"format": "png", "scale": scale, **size})
                )
        finally:
            engine.stop_sync_server(silence_warnings=True)
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 - kaleido and its browser fail in many types
        said = " ".join(str(error).split()) or type(error).__name__
        raise UnstickError(
            f"PNG needs a Chrome or Chromium that kaleido can start ({said[:160]}); install one, or write .html"
        ) from None
    return [place for _, place in wanted]


def drawing(figure: Figure) -> tuple[dict[str, Any], dict[str, int]]:
    """A figure as Plotly draws it alone, and its width and height in pixels."""
    layout = dict(figure.layout)
    margin = dict(layout.get("margin", {}))
    width = WIDE if figure.wide else NARROW
    lines = _lines(figure.title, LONGEST[width])
    top = TITLE + 20 * (len(lines) - 1)
    rows = _legend_rows(figure, width)
    shows = figure.flat and layout.get("showlegend") is not False
    legend = LEGEND * max(1, rows) if shows else 0
    margin["t"] = top + legend + (margin.get("t", 16) if legend == 0 else 0)
    layout |= {
        "title": {
            "text": "<br>".join(label(line) for line in lines),
            "x": 0.012,
            "xanchor": "left",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"t": 14},
            "font": {"size": 16},
        },
        "margin": margin,
        "paper_bgcolor": "@page",
    }
    drawn = {"data": _chosen(figure), "layout": layout}
    size = {"width": width, "height": figure.tall + margin["t"]}
    colored: dict[str, Any] = _colored(drawn, _palette())
    return colored, size


def _legend_rows(figure: Figure, width: int) -> int:
    """Into how many rows Plotly breaks the names; all get the width of the longest."""
    names = [
        str(trace.get("name", ""))
        for trace in figure.traces
        if trace.get("showlegend") is not False
    ]
    axis = figure.layout.get("yaxis") or {}
    beside = max((len(word) for word in axis.get("categoryarray", ())), default=0)
    longest = max(map(len, names), default=0)
    fitting = int((width - LETTER * beside) // (SYMBOL + LETTER * longest))
    return math.ceil(len(names) / max(1, min(fitting, NAMES_A_ROW[width])))


def _chosen(figure: Figure) -> list[dict[str, Any]]:
    """The traces that show before a reader chooses others, as they are where what moves has come to its end."""
    choices = (figure.layout.get("meta") or {}).get("choices", [])
    hidden = {at for choice in choices[1:] for at in choice["shows"]}
    return [
        {**trace, "visible": False} if at in hidden else _arrived(trace)
        for at, trace in enumerate(figure.traces)
    ]


def _arrived(trace: dict[str, Any]) -> dict[str, Any]:
    """Of a mark that moves, its last places only."""
    meta = trace.get("meta")
    keeps = meta.get("keeps") if isinstance(meta, dict) else None
    if not keeps:
        return trace
    return {**trace, **{key: trace[key][-keeps:] for key in MOVED if key in trace}}


def _lines(text: str, longest: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > longest:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _colored(value: Any, palette: Mapping[str, str]) -> Any:
    """The same with colors for roles, as the page's own script puts them."""
    if isinstance(value, str):
        return palette[value[1:]] if value.startswith("@") else value
    if isinstance(value, Mapping):
        return {key: _colored(item, palette) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_colored(item, palette) for item in value]
    return value


@cache
def _palette() -> Mapping[str, str]:
    """The colors of the light page, by role."""
    sheet = Environment(loader=PackageLoader("unstick.report"), autoescape=True).get_template(
        "report.css"
    )
    module: Any = sheet.module
    return dict(re.findall(r"--([\w-]+):\s*([^;]+);", str(module.light())))
