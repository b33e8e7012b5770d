"""The last step of every command: the answer on stdout, and the page if one is wanted."""

from pathlib import Path

import click

import unstick
from unstick.cli.progress import speaks
from unstick.errors import UnstickError
from unstick.record import Record

__all__ = ["deliver"]


def deliver(record: Record, outcome: str, *, as_json: bool, html: Path | None) -> None:
    """Print a record for people or for programs, then write its page.

    Args:
        record: Any record of the package.
        outcome: How it ended; an interrupted answer is printed all the same, and said to be one.
        as_json: One JSON object instead of text.
        html: Where the page goes.

    Raises:
        UnstickError: The work was interrupted, or the page cannot be written.
    """
    # the printers are imported when there is something to print, so that --help is quick
    if as_json:
        from unstick.report.serialization import to_json

        click.echo(to_json(record))
    else:
        from rich.console import Console

        from unstick.report.terminal import show

        show(record, Console())
    if html is not None and speaks():
        try:
            unstick.save(record, html)
        except OSError as error:
            raise UnstickError(f"{html} cannot be written: {error.strerror or error}") from None
        click.echo(f"The report is in {html}.", err=True)
    if outcome.startswith("interrupted"):
        raise UnstickError("interrupted: the answer above is the best so far")
