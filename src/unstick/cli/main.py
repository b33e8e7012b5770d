"""The ``unstick`` command: its parts, and the one place where a refusal becomes one line and an exit code."""

from collections.abc import Generator
from contextlib import contextmanager

import click

from unstick import __version__
from unstick.cli.demo import demo
from unstick.cli.diagnose import diagnose
from unstick.cli.escape import escape
from unstick.cli.spectrum import spectrum
from unstick.errors import UnstickError

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="unstick")
@click.pass_context
def main(context: click.Context) -> None:
    """Find out why a neural network's training is stuck, prove it, and get it moving.

    A TARGET is given as file.py:function. The function returns an unstick.Problem or an unstick.Run; if it has
    a parameter called data_dir, it gets what --data-dir says.

    Exit codes: 0 done, 1 could not (one line says why) or interrupted, 2 wrong usage, 3 only with
    --fail-on-stall.
    """
    context.with_resource(_refusals())


main.add_command(demo)
main.add_command(diagnose)
main.add_command(escape)
main.add_command(spectrum)


@contextmanager
def _refusals() -> Generator[None]:
    """Whatever a command refuses is one line on stderr and exit code 1, never a traceback."""
    try:
        yield
    except UnstickError as error:
        _give_up(" ".join(str(error).split()))
    except KeyboardInterrupt:
        _give_up("interrupted before there was an answer")


def _give_up(reason: str) -> None:
    click.echo(f"unstick: {reason}", err=True)
    raise SystemExit(1) from None
