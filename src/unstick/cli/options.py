"""The arguments and options that commands share, so that each means and says the same everywhere."""

from collections.abc import Callable
from importlib.util import find_spec
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
    "png",
    "quiet",
    "recipe",
    "seed",
    "storage",
    "target",
    "task",
]

_Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _page(_context: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    """Refuse a page or picture that could not be written before the work is done, not after."""
    suffix = f".{option.name}"
    if path is not None and path.suffix.lower() != suffix:
        raise click.BadParameter(f"{path} does not end in {suffix}")
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


def _picture(context: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    """The same, and that there is something to draw with."""
    if path is not None and find_spec("kaleido") is None:
        raise click.BadParameter(
            "needs kaleido, which is not installed: pip install 'unstick[png]'"
        )
    return _page(context, option, path)


png: _Decorator = click.option(
    "--png",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_picture,
    help="Write the figures here as pictures; of several each as NAME-figure.png. Needs kaleido and a Chrome or Chromium.",
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


def _all(*decorators: _Decorator) -> _Decorator:
    """Several options as one, in this order."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for each in reversed(decorators):
            command = each(command)
        return command

    return decorate


task: _Decorator = _all(
    click.option(
        "--data",
        default="digits",
        show_default=True,
        help="digits, blobs, circles, moons, iris, xor, mnist1d, mnist, fashion-mnist, cifar-10, or file.py:function, "
        "which returns a Dataset or tensors (inputs, targets).",
    ),
    click.option("--raw", is_flag=True, help="Take the inputs as they are, not standardized."),
    click.option(
        "--model",
        default="64",
        show_default=True,
        help="Hidden widths such as 512 or 64-64, linear, conv, or file.py:function, which returns a module.",
    ),
    click.option(
        "--activation",
        default="relu",
        show_default=True,
        help="relu, tanh, sigmoid, gelu, silu, elu, softplus or none.",
    ),
    click.option(
        "--normalize",
        type=click.Choice(["batch", "layer"]),
        help="Normalize before each activation.",
    ),
    click.option(
        "--init",
        "scheme",
        default="default",
        show_default=True,
        help="zero, one, constant, normal, xavier, he, orthogonal, or torch's default.",
    ),
    click.option(
        "--pretrained",
        type=click.Path(path_type=Path),
        help="Start from what fits of this checkpoint; a head of another size stays as initialized.",
    ),
    click.option(
        "--loss",
        type=click.Choice(["cross-entropy", "mse", "mae", "huber"]),
        help="By default cross-entropy for classes, mse for numbers.",
    ),
)
"""What is trained on what."""

_NUMBER, _COUNT = click.FloatRange(min=0), click.IntRange(min=0)
_PART = click.FloatRange(0, 1)

recipe: _Decorator = _all(
    click.option(
        "--optimizer",
        default="sgd",
        show_default=True,
        help="gradient-descent, sgd, momentum, heavy-ball, nesterov, adagrad, adagrad-rms, rmsprop, rmsprop-notes, adam, "
        "adamw, lars, lamb, rmsprop-warmup, perturbed-gradient-descent, negative-curvature or saddle-free-newton.",
    ),
    click.option("--lr", type=_NUMBER, help="Learning rate; by default the optimizer's own."),
    click.option("--momentum", type=_PART, help="Part of the last step that is taken again."),
    click.option("--beta1", type=_PART, help="Of Adam and kin."),
    click.option("--beta2", type=_PART, help="Of Adam and kin."),
    click.option("--alpha", type=_PART, help="Of RMSProp."),
    click.option("--eps", type=_NUMBER, help="Of the adaptive ones."),
    click.option("--weight-decay", default=0.0, show_default=True, type=_NUMBER),
    click.option(
        "--batch-size",
        help="A number, or full.  [default: 32; full where the optimizer asks for it]",
    ),
    click.option(
        "--shuffle",
        type=click.Choice(["epoch", "once", "never"]),
        default="epoch",
        show_default=True,
        help="Draw a new order for each epoch, one for all, or none.",
    ),
    click.option("--epochs", type=_NUMBER, help="Passes over the samples.  [default: 10]"),
    click.option("--updates", type=_COUNT, help="Updates, at most."),
    click.option("--budget", type=_NUMBER, help="Work, at most, in gradients of all samples."),
    click.option(
        "--schedule",
        default="constant",
        show_default=True,
        help="Of the learning rate: constant, step, exponential, cosine, inverse-sqrt or plateau.",
    ),
    click.option("--warmup", default=0, show_default=True, type=_COUNT, help="Updates."),
    click.option(
        "--every", default=1000, show_default=True, type=_COUNT, help="Updates of a step."
    ),
    click.option("--factor", default=0.1, show_default=True, type=_PART, help="Of a step."),
    click.option(
        "--floor", default=0.0, show_default=True, type=_PART, help="Smallest part of the rate."
    ),
    click.option(
        "--base-batch",
        type=_COUNT,
        help="The batch size that --lr is for; the rate is scaled from there.",
    ),
    click.option(
        "--scaling",
        type=click.Choice(["linear", "sqrt"]),
        default="linear",
        show_default=True,
        help="How the rate grows with the batch size.",
    ),
    click.option("--clip-norm", type=_NUMBER, help="Shorten gradients longer than this."),
    click.option(
        "--average-from",
        type=_PART,
        help="Average the parameters over the epochs from this part of the training on.",
    ),
    click.option("--target-loss", type=_NUMBER, help="End once an epoch's mean loss is this low."),
    click.option(
        "--patience", type=_COUNT, help="End after so many epochs without a lower mean loss."
    ),
    click.option("--norms", is_flag=True, help="Record the norms of gradients and updates."),
    seed,
)
"""How it is trained: the fields of ``unstick.Recipe``."""
