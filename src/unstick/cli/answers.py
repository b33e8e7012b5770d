"""The last step of every command: the answer on stdout, and the page if one is wanted."""

from pathlib import Path

import click

import unstick
from unstick.cli.progress import speaks
from unstick.errors import UnstickError
from unstick.record import Record

__all__ = ["deliver"]


def deliver(
    record: Record,
    outcome: str,
    *,
    as_json: bool,
    html: Path | None,
    png: Path | None = None,
    shared: bool = False,
    again: str = "",
) -> None:
    """Print a record for people or for programs, then write its page and its pictures.

    Args:
        record: Any record of the package.
        outcome: How it ended; an interrupted answer is printed all the same, and said to be one.
        as_json: One JSON object instead of text.
        html: Where the page goes.
        png: Where the figures go.
        shared: Whether the page shares its plotting library with others of its folder.
        again: How to go on after an interruption.

    Raises:
        UnstickError: The work was interrupted, or the page or a picture cannot be written.
    """
    # the printers are imported when there is something to print, so that --help is quick
    if as_json:
        from unstick.report.serialization import to_json

        click.echo(to_json(record))
    else:
        from rich.console import Console

        from unstick.report.terminal import show

        show(record, Console())
    for path, what in ((html, "report is"), (png, "pictures are")):
        if path is None or not speaks():
            continue
        try:
            unstick.save(record, path, shared=shared)
        except OSError as error:
            raise UnstickError(f"{path} cannot be written: {error.strerror or error}") from None
        where = path if path is html else f"{path.parent / path.stem}*.png"
        click.echo(f"The {what} in {where}.", err=True)
    if outcome.startswith("interrupted"):
        raise UnstickError(
            f"interrupted: the answer above is the best so far{again and f'; {again}'}"
        )
