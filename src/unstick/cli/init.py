"""``unstick init``: a commented file to fill in."""

from pathlib import Path

import click

from unstick.errors import UnstickError

__all__ = ["init"]

FILE = '''\
"""A stuck training, as unstick takes it. Fill in the three functions, then ask:

unstick diagnose {name}:run --checkpoint model.pt --html report.html
"""

import torch
from torch import nn

import unstick


def data():
    """What the loss is a mean over: a DataLoader, a pair (inputs, targets), or a list of batches."""
    digits = unstick.data.load("digits").standardized()  # yours here
    return digits.train_inputs, digits.train_targets


def model():
    """The module, built as in your training; --checkpoint loads its parameters."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))  # yours here


def run():
    """The problem, and what is known of its training: the more, the more can be told."""
    network = model()
    problem = unstick.Problem(network, data(), nn.CrossEntropyLoss())  # the loss you minimize
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)  # yours; a checkpoint may hold its memory
    return unstick.Run(
        problem,
        optimizer=optimizer,
        batch_size=32,  # samples of an update
        history=None,  # the loss of each update; or give --history losses.csv
        scheduler=None,  # of the learning rate
        clip_norm=None,  # that gradients are clipped to
    )


# In your training loop, to have a history:
#     trace = unstick.RunTrace()
#     ...
#     trace.record(loss=loss.item(), lr=optimizer.param_groups[0]["lr"])
#     ...
#     trace.write("losses.csv")
'''


@click.command()
@click.argument("path", default="stuck.py", type=click.Path(dir_okay=False, path_type=Path))
def init(path: Path) -> None:
    """Write a commented file to fill in, by default stuck.py; one that is there is never written over."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(FILE.replace("{name}", path.name))
    except FileExistsError:
        raise UnstickError(f"{path} exists and is not written over; choose another name") from None
    except OSError as error:
        raise UnstickError(f"{path} cannot be written: {error.strerror or error}") from None
    click.echo(f"Fill in {path}, then: unstick diagnose {path}:run --checkpoint model.pt", err=True)
