"""``unstick demo``: a real stalled training, diagnosed and freed."""

from pathlib import Path

import click

from unstick.cli import options
from unstick.cli.answers import deliver
from unstick.cli.progress import watching

__all__ = ["DATA", "demo"]

# Those of unstick.studies.demo; importing that here would import torch for --help.
DATA = ("digits", "fashion-mnist", "mnist")


@click.command()
@click.option(
    "--data",
    type=click.Choice(DATA),
    default="digits",
    show_default=True,
    help="What to train on.",
)
@options.data_dir
@options.seed
@options.html("report.html")
@options.as_json
@options.quiet
def demo(
    data: str, data_dir: Path | None, seed: int, html: Path, as_json: bool, quiet: bool
) -> None:
    """Train a network that starts from zero until it stands still, find out why, and get it moving.

    Network, data and optimizer are ordinary, and every number is measured in front of you.
    """
    from unstick.studies.demo import demonstrate  # with torch: imported when it is run

    def say(text: str) -> None:
        click.echo(text, err=True)

    with watching(None, as_json=as_json, quiet=quiet) as progress:
        shown = demonstrate(
            data=data,
            folder=data_dir,
            seed=seed,
            progress=progress,
            say=None if quiet else say,
        )
    deliver(shown, shown.diagnosis.outcome, as_json=as_json, html=html)
