"""``unstick toy``: the small surfaces on which optimization is explained, measured."""

from pathlib import Path

import click

from unstick.cli import options
from unstick.cli.answers import deliver
from unstick.cli.progress import watching

__all__ = ["toy"]


@click.command()
@click.argument("name", required=False)
@options.seed
@options.html()
@options.png
@options.as_json
@options.quiet
def toy(
    name: str | None,
    seed: int,
    html: Path | None,
    png: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure a toy surface by NAME; without one, say which there are."""
    from unstick.studies.toys import TOYS, make_toy  # with torch: late, so that --help is quick

    if name is None:
        for each, about in TOYS.items():
            click.echo(f"{each}: {about}")
        return
    with watching(None, as_json=as_json, quiet=quiet) as progress:
        found = make_toy(name, seed=seed, progress=progress)
    deliver(found, found.outcome, as_json=as_json, html=html, png=png)
