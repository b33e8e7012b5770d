"""``unstick diagnose``: why a training is stuck, with the proof."""

from dataclasses import replace
from pathlib import Path

import click

import unstick
from unstick.cli import options
from unstick.cli.answers import deliver
from unstick.cli.checkpoints import SAVED, check_free, save_run
from unstick.cli.progress import expected, speaks, watching
from unstick.cli.targets import load_run
from unstick.errors import UnstickError

__all__ = ["diagnose"]


@click.command()
@options.target
@options.checkpoint
@options.data_dir
@click.option(
    "--history",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The losses of the run: .jsonl, .csv or .parquet with a column loss; instead of the target's own.",
)
@click.option(
    "--trials/--no-trials",
    default=True,
    show_default=True,
    help="Restart where the point leads nowhere, and try remedies from here beside going on: up to the larger of --budget "
    "and three times the run on top.",
)
@click.option(
    "--apply",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write model and optimizer with the best remedy that helped to this new .pt or .pth file.",
)
@options.budget(500)
@options.seed
@options.plan
@options.html()
@options.as_json
@options.quiet
@click.option(
    "--fail-on-stall",
    is_flag=True,
    help="Exit with 3 if something holds the training: any cause but progressing, model-floor and undecided.",
)
@click.pass_context
def diagnose(
    context: click.Context,
    target: str,
    checkpoint: Path | None,
    data_dir: Path | None,
    history: Path | None,
    trials: bool,
    apply: Path | None,
    budget: int,
    seed: int,
    plan: bool,
    html: Path | None,
    as_json: bool,
    quiet: bool,
    fail_on_stall: bool,
) -> None:
    """Why training is stuck at TARGET, with the proof.

    A TARGET that returns an unstick.Run with the optimizer, the batch size and the history of losses tells more: copies of
    the run are trained on, unchanged and with one setting changed each, and remedies for the cause are tried on copies. The
    model is left as it was. Pictures of the landscape are made for --html only and come on top of --budget.
    """
    if apply is not None:
        check_free(apply, SAVED)
        if not trials:
            raise click.UsageError("--apply writes what was tried; --no-trials tries nothing")
    run = load_run(target, checkpoint=checkpoint, data_dir=data_dir)
    if history is not None:
        run = replace(run, history=unstick.RunTrace.read(history))
    if plan:
        told = unstick.plan_verdict(run.problem, budget=budget)
        deliver(told, told.outcome, as_json=as_json, html=html)
        return
    from unstick.diagnosis.diagnosing import trial_budget  # with torch: late

    promise = expected(run.problem, budget)
    if trials and run.optimizer is not None:
        promise += f"; remedies, if something holds it: up to {trial_budget(run, budget):,.0f} more"
    with watching(promise, as_json=as_json, quiet=quiet) as progress:
        found = unstick.diagnose(
            run.problem,
            run.optimizer,
            batch_size=run.batch_size,
            history=run.history,
            scheduler=run.scheduler,
            clip_norm=run.clip_norm,
            trials=trials,
            budget=budget,
            seed=seed,
            pictures=html is not None,
            progress=progress,
        )
    helped = found.remedy
    if apply is not None and helped is not None and speaks():
        treated = unstick.treat(run, found)
        save_run(treated, apply)
        fits = "" if helped.keeps_model else ", and fits the model only after the code above"
        click.echo(f"{apply} holds model and optimizer after: {helped.about}{fits}.", err=True)
    deliver(found, found.outcome, as_json=as_json, html=html)
    if apply is not None and helped is None:
        raise UnstickError(f"{apply} was not written: no remedy helped")
    context.exit(3 if fail_on_stall and found.stalled else 0)
