"""``unstick train``: a model on data, every knob of a recipe."""

from pathlib import Path
from typing import Any

import click

from unstick.cli import options
from unstick.cli.answers import deliver
from unstick.cli.progress import watching

__all__ = ["train"]


@click.command()
@options.task
@options.recipe
@options.data_dir
@click.option(
    "--validate",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0, 1, max_open=True),
    help="Part of the training samples to set aside and look at after each epoch.",
)
@click.option(
    "--vary",
    multiple=True,
    metavar="KNOB=VALUES",
    help="Train a model for every value, all at once: --vary lr=0.01,0.1 --vary seed=0,1,2. Any knob of the recipe.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write model.safetensors, trace.jsonl and curves.html into this folder, and while it trains a checkpoint.",
)
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in --out.")
@click.option(
    "--diagnose-on-stall",
    is_flag=True,
    help="End once --patience epochs (5, if not given) were no better, and find out why.",
)
@click.option(
    "--trace",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the trace here too: .jsonl, .csv or .parquet.",
)
@options.html()
@options.as_json
@options.quiet
def train(
    data_dir: Path | None,
    validate: float,
    vary: tuple[str, ...],
    out: Path | None,
    resume: bool,
    diagnose_on_stall: bool,
    trace: Path | None,
    html: Path | None,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Train a model, or many at once, and show how the loss went.

    Ctrl-C ends the training after the update in progress; with --out, --resume then goes on as if nothing had been.
    """
    from unstick.cli.training import Work, files_of  # with torch: imported when it is run

    work = Work.of(given, data_dir=data_dir, validate=validate, vary=vary, stall=diagnose_on_stall)
    files = files_of(out, trace=trace, resume=resume, several=work.several)
    with watching(work.expected(), as_json=as_json, quiet=quiet) as progress:
        told = work.done(files.checkpoint, resume=resume, progress=progress)
    files.write(told, work)
    deliver(told, told.outcome, as_json=as_json, html=html)
