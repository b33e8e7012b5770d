"""``unstick study``: the claims about optimization, measured on this machine, and on a user's own model and data."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import unstick
from unstick.cli import options
from unstick.cli.answers import deliver
from unstick.cli.progress import watching
from unstick.errors import UnstickError

if TYPE_CHECKING:
    from unstick.cli.progress import Watcher
    from unstick.studies.frame import Study

__all__ = ["study"]

HTML_OF_ALL = "index.html"


@click.group()
def study() -> None:
    """Claims about optimization, each measured by a planned comparison."""


@study.command("list")
def listed() -> None:
    """Say which studies there are, what each claims, and what of your own it takes."""
    from unstick.studies.frame import all_studies  # with torch: late, so that --help is quick

    for each in all_studies():
        taken = " ".join(f"--{name}" for name in each.takes)
        click.echo(f"{click.style(each.name, bold=True)}  {taken}".rstrip())
        click.echo(
            click.wrap_text(f"{each.claim}.", 100, initial_indent="  ", subsequent_indent="  ")
        )


@study.command("run")
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every study of the package.")
@click.option(
    "--full/--quick",
    default=False,
    show_default=True,
    help="What the claim deserves, or at most a minute.",
)
@click.option("--data", help="Instead of the study's own: a data set by name, or file.py:function.")
@click.option(
    "--model",
    help="Instead of the study's own: widths such as 64-64, linear, conv, or file.py:function.",
)
@click.option(
    "--seeds", type=click.IntRange(min=1), help="How many; by default the study's own number."
)
@click.option(
    "--store",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep every finished arm in this folder, and go on from it.",
)
@click.option(
    "--backend",
    type=click.Choice(["processes", "ray", "here"]),
    default="processes",
    show_default=True,
    help="Where arms run: in processes of this machine, on a Ray cluster, or in this process.",
)
@click.option("--jobs", type=click.IntRange(min=1), help="Processes.  [default: one a core]")
@click.option("--address", help="Of the Ray cluster; by default a local one is started.")
@click.option(
    "--part",
    metavar="K/N",
    callback=lambda _context, _parameter, text: _part(text),
    help="Only every Nth seed from the Kth, such as 1/2 here and 2/2 on another machine; merge their stores.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write a page, JSON and CSV of each study here, and a page of all.",
)
@options.data_dir
@options.seed
@options.as_json
@options.quiet
def run(
    names: tuple[str, ...],
    everything: bool,
    full: bool,
    out: Path | None,
    store: Path | None,
    as_json: bool,
    quiet: bool,
    **how: Any,
) -> None:
    """Run studies by NAMES, or a study of your own given as file.py, and say what each found.

    Finished arms are kept in --store at once; the same command goes on after any interruption.
    """
    from unstick.studies.frame import Setting, check_stores, run_study

    chosen = _chosen(names, everything)
    where = {key: how.pop(key) for key in ("backend", "jobs", "address", "part")}
    if where["address"] is not None and where["backend"] != "ray":
        raise click.UsageError("--address is of a Ray cluster: give --backend ray too")
    if where["part"] is not None and store is None:
        raise click.UsageError("--part is of a store that is merged later: give --store too")
    setting = Setting(full=full, **how)
    if everything:  # what has its own data or model is left out, and told as not run
        given = {name for name in ("data", "model") if how[name] is not None}
        chosen = [each for each in chosen if given <= set(each.takes)]
    results: list[Any] = []
    if store is not None:
        check_stores(store, chosen, setting)
    if out is not None:
        _folder(out)
    for number, each in enumerate(chosen, start=1):
        with watching(None, as_json=as_json, quiet=quiet) as shown:
            progress = shown and partial(_tell, shown, f"{number} of {len(chosen)}")
            found = run_study(each, setting, store=store, progress=progress, **where)
        results.append(found)
        if out is not None:
            _write(found, out)
        if len(chosen) > 1 and not as_json:
            click.echo(f"{found.name}: {found.verdict}. {found.said}")
        if found.outcome == "interrupted":
            break
    again = "with --store the same command would go on"
    if store is not None:
        again = f"the same command goes on from {store}"
    _deliver(results, out, as_json=as_json, again=again)


@study.command("report")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Write a page, JSON and CSV of each study here, and a page of all.",
)
@options.data_dir
@options.as_json
def report(folder: Path, out: Path, data_dir: Path | None, as_json: bool) -> None:
    """Decide again by what the store in FOLDER holds, without running anything."""
    from unstick.studies.frame import results_of

    found = results_of(folder, data_dir=data_dir)
    _folder(out)
    for each in found:
        _write(each, out)
    _deliver(found, out, as_json=as_json)


@study.command("merge")
@click.argument(
    "folders",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
)
@click.option(
    "--into",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="The folder to join them in.",
)
def merge(folders: tuple[Path, ...], into: Path) -> None:
    """Join the stores of several machines: FOLDERS, all of the same code and settings."""
    from unstick.studies.frame import merge_stores

    added, known = merge_stores(folders, into)
    click.echo(f"{added:,} finished arms are new in {into}; {known:,} were there already.")


def _part(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    at, slash, parts = text.partition("/")
    if not (slash and at.isdecimal() and parts.isdecimal() and 1 <= int(at) <= int(parts)):
        raise click.BadParameter(f"{text!r}; expected a part of how many, such as 1/2")
    return int(at), int(parts)


def _tell(shown: "Watcher", place: str, name: str, done: float, total: float) -> None:
    """Which of several studies it is, and how far it is."""
    stage = name if place == "1 of 1" else f"study {place}, {name}"
    shown(stage, done, total)


def _chosen(names: tuple[str, ...], everything: bool) -> "list[Study]":
    from unstick.studies.frame import all_studies, find_study

    if everything == bool(names):
        raise click.UsageError("give names of studies, or --all")
    return list(all_studies()) if everything else [find_study(name) for name in names]


def _folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnstickError(f"{out} cannot be made: {error.strerror or error}") from None


def _write(found: Any, out: Path) -> None:
    for suffix in (".html", ".json", ".csv"):
        path = out / f"{found.name}{suffix}"
        try:
            unstick.save(found, path, shared=True)
        except OSError as error:
            raise UnstickError(f"{path} cannot be written: {error.strerror or error}") from None


def _deliver(results: list[Any], out: Path | None, *, as_json: bool, again: str = "") -> None:
    from unstick.studies.frame import all_studies, overview_of

    if len(results) == 1:
        told: Any = results[0]
    else:
        told = overview_of(results, [each.name for each in all_studies()])
    page = None if out is None or len(results) == 1 else out / HTML_OF_ALL
    deliver(told, told.outcome, as_json=as_json, html=page, shared=True, again=again)
    lost = [each.name for each in results if each.rows and all(row.failed for row in each.rows)]
    if lost:
        raise UnstickError(f"every arm failed in {', '.join(lost)}: nothing was measured there")
