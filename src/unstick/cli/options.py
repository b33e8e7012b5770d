"""The arguments and options that commands share, so that each means and says the same everywhere."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import click

if TYPE_CHECKING:
    from unstick.spectrum.storage import Storage

__all__ = [
    "as_json",
    "basis_on",
    "budget",
    "checkpoint",
    "data_dir",
    "html",
    "max_basis",
    "parameters",
    "plan",
    "quiet",
    "seed",
    "storage",
    "target",
]

_Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _page(_context: click.Context, _option: click.Parameter, path: Path | None) -> Path | None:
    """Refuse a page that could not be written before the work is done, not after."""
    if path is not None and path.suffix.lower() != ".html":
        raise click.BadParameter(f"{path} does not end in .html")
    if path is not None and not path.absolute().parent.is_dir():
        raise click.BadParameter(f"the folder {path.parent} does not exist")
    return path


def budget(default: int) -> _Decorator:
    """``--budget``, with the default of the library call behind the command."""
    text = "Most work to spend, in full-data gradients."
    least = click.IntRange(min=1)
    return click.option("--budget", default=default, show_default=True, type=least, help=text)


def html(default: str | None = None) -> _Decorator:
    """``--html``; with a default, the page is always written."""
    return click.option(
        "--html",
        type=click.Path(dir_okay=False, path_type=Path),
        default=default,
        show_default=default is not None,
        callback=_page,
        help="Write a self-contained page here; one that is there is replaced.",
    )


def storage(place: str) -> "Storage | None":
    """What ``--basis-on`` says, as the library takes it."""
    if place == "device":
        return None
    from unstick.spectrum.storage import Storage  # with torch: late, so that --help is quick

    return Storage(cast("Literal['cpu', 'disk']", place))


target: _Decorator = click.argument("target")

checkpoint: _Decorator = click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="Load the model from this .pt, .pth or .safetensors file: a state dict, or a dict with 'model' and "
    "optionally 'optimizer' and 'scheduler'.",
)

data_dir: _Decorator = click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    envvar="UNSTICK_DATA",
    show_envvar=True,
    help="Folder that holds data sets, such as mnist/train-images-idx3-ubyte.gz.",
)

parameters: _Decorator = click.option(
    "--parameters",
    multiple=True,
    metavar="PATTERN",
    help="Only the parameters whose names match, such as 'layers.0.*'; may be given again. The others stay fixed.",
)

max_basis: _Decorator = click.option(
    "--max-basis",
    type=click.IntRange(min=1),
    help="Vectors kept at once; fewer take less memory and more products. By default as many as fit.",
)

basis_on: _Decorator = click.option(
    "--basis-on",
    type=click.Choice(["device", "cpu", "disk"]),
    default="device",
    show_default=True,
    help="Where those vectors are kept: with the parameters, in the CPU's memory, or in a temporary file.",
)

plan: _Decorator = click.option(
    "--plan",
    is_flag=True,
    help="Say what memory and time this would take, and do nothing else.",
)

seed: _Decorator = click.option(
    "--seed", default=0, show_default=True, help="Seed of every random choice."
)

as_json: _Decorator = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object and nothing else on stdout."
)

quiet: _Decorator = click.option(
    "--quiet", "-q", is_flag=True, help="Say nothing on stderr about expected time and progress."
)
