"""``unstick gallery``: labelled stalled trainings, and what the diagnosis makes of them."""

from pathlib import Path

import click

from unstick.cli import options
from unstick.cli.answers import deliver
from unstick.cli.progress import watching

__all__ = ["gallery"]


@click.command()
@click.argument("names", nargs=-1)
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(min=1), help="How many.")
@click.option("--seed", default=0, show_default=True, help="The first of them.")
@click.option(
    "--healthy/--no-healthy",
    default=True,
    show_default=True,
    help="Diagnose healthy trainings too, where nothing must be found.",
)
@click.option(
    "--trials/--no-trials",
    default=False,
    show_default=True,
    help="Try remedies on the stalls too, and train the best on beside the documented repair: four minutes a seed.",
)
@click.option("--list", "listed", is_flag=True, help="Say what there is, and do nothing else.")
@options.html()
@options.as_json
@options.quiet
def gallery(
    names: tuple[str, ...],
    seeds: int,
    seed: int,
    healthy: bool,
    trials: bool,
    listed: bool,
    html: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train and diagnose labelled trainings, and count how often the cause is right.

    NAMES choose those whose names contain one of them; without, all are taken: about ten minutes a seed.
    """
    from unstick.studies.gallery import all_stalls, measure_gallery  # with torch: late

    if listed:
        for stall in all_stalls():
            click.echo(f"{stall.name}: {stall.causes[0]}. {stall.about} ({stall.source})")
        return
    with watching(None, as_json=as_json, quiet=quiet) as progress:
        told = measure_gallery(
            seeds=range(seed, seed + seeds),
            names=names,
            healthy=healthy,
            trials=trials,
            progress=progress,
        )
    deliver(told, told.outcome, as_json=as_json, html=html)
