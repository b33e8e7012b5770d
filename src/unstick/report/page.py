"""A record as one self-contained page, or as a file: no network, no script from elsewhere, the same bytes every time.

Answers: how is a record written as a page, as JSON or as pictures?
Does not answer: what the page shows (``sections``), how a figure is drawn, or how the page looks (the templates).
"""

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from unstick import __version__
from unstick.record import Record
from unstick.report.csv import to_csv
from unstick.report.figures import Figure
from unstick.report.picture import save_pictures
from unstick.report.sections import costs_of, notes_of, sections_of
from unstick.report.serialization import to_json
from unstick.report.story import story_of

__all__ = ["LIBRARY", "save", "to_html"]

LIBRARY = "plotly.min.js"
"""The plotting library, as a file that several pages share."""

TRIED = ("do", "tried", "tried too", "not tried")
"""Facts that sections of their own tell where something was tried."""


def save(record: Record, path: str | Path, *, shared: bool = False) -> None:
    """Write a record as a self-contained page (``.html``), as JSON (``.json``), pictures (``.png``) or CSV (``.csv``).

    Args:
        record: Any record of the package.
        path: Where to; the suffix says as what. A file that is there is replaced. Of several figures each gets a picture
            of its own, as ``stem-figure.png``. CSV is for what has rows: studies and traces of runs.
        shared: Of a page: take the plotting library from ``plotly.min.js`` beside it, which is put there. One file of 5 MB
            for a folder of pages, instead of 5 MB in each.

    Raises:
        ValueError: The suffix is none of these.
        UnstickError: CSV: there are no rows. Pictures: there is no figure, no kaleido (``pip install 'unstick[png]'``), or no Chrome or Chromium.
    """
    path = Path(path)
    match path.suffix.lower():
        case ".html":
            text = to_html(record, shared=shared)
            if shared:
                _lay(path.parent / LIBRARY)
        case ".json":
            text = to_json(record) + "\n"
        case ".csv":
            text = to_csv(record)
        case ".png":
            save_pictures(record, path)
            return
        case suffix:
            raise ValueError(f'a report is .html, .json, .png or .csv, not "{suffix}": {path}')
    path.write_text(text, encoding="utf-8", newline="\n")


def to_html(record: Record, *, shared: bool = False) -> str:
    """Write any record as one HTML page that needs nothing else.

    Args:
        record: Any record of the package; sections appear where there are data for them.
        shared: Take the plotting library from a file beside the page; ``save`` puts it there.

    Returns:
        The page, about 5 MB, nearly all of which is the plotting library where it is not shared. Equal records give equal pages.
    """
    story = story_of(record)
    sections = [section for section in sections_of(record) if not section.empty]
    notes = list(notes_of(record))
    listed = {*notes, *(point for section in sections for point in section.points)}
    drawn = [figure for section in sections for figure in section.figures]
    tried = any(figure.name == "trials" for figure in drawn)
    return _template().render(
        story=story,
        facts=[
            (label, value)
            for label, value in story.facts
            if value not in listed and not (tried and label in TRIED)
        ],
        what=story.about or type(record).__name__,
        sections=sections,
        costs=list(costs_of(record)),
        notes=notes,
        specifications=_in_script([_specification(figure) for figure in drawn]),
        plotly=Markup(_plotly()) if drawn and not shared else "",  # noqa: S704 - the library as it was installed
        library=LIBRARY if drawn and shared else "",
        drawn=bool(drawn),
        shared=shared,
        version=__version__,
    )


def _specification(figure: Figure) -> dict[str, Any]:
    return {
        "name": figure.name,
        "traces": figure.traces,
        "layout": figure.layout,
        "height": figure.tall,
        "flat": figure.flat,
        "least": figure.least,
    }


def _in_script(value: object) -> Markup:
    """JSON that is safe inside a script element, whatever the strings in it say."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 - no markup is left in it


@cache
def _plotly() -> str:
    return (files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


def _lay(path: Path) -> None:
    """The library as a file, unless it lies there already."""
    if not path.exists() or path.stat().st_size != len(_plotly().encode()):
        path.write_text(_plotly(), encoding="utf-8", newline="\n")


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("unstick.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")
