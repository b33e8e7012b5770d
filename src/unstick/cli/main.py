"""The ``unstick`` command: its parts, and the one place where a refusal becomes one line and an exit code."""

import os
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import click

from unstick import __version__
from unstick.cli.convexity import convexity
from unstick.cli.demo import demo
from unstick.cli.diagnose import diagnose
from unstick.cli.escape import escape
from unstick.cli.find import find
from unstick.cli.gallery import gallery
from unstick.cli.init import init
from unstick.cli.landscape import landscape
from unstick.cli.spectrum import spectrum
from unstick.cli.study import study
from unstick.cli.toy import toy
from unstick.cli.train import train
from unstick.errors import UnstickError
from unstick.integrations.torchrun import Crew, joined

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

    Several processes share the work where torchrun starts them: torchrun --nproc-per-node 4 -m unstick.cli.main
    spectrum TARGET. One of them prints.
    """
    crew = context.with_resource(joined())
    context.obj = crew
    context.with_resource(_refusals(crew))


main.add_command(convexity)
main.add_command(demo)
main.add_command(diagnose)
main.add_command(escape)
main.add_command(find)
main.add_command(gallery)
main.add_command(init)
main.add_command(landscape)
main.add_command(spectrum)
main.add_command(study)
main.add_command(toy)
main.add_command(train)


@contextmanager
def _refusals(crew: Crew) -> Generator[None]:
    """Whatever a command refuses is one line on stderr and exit code 1, never a traceback; said once by all."""
    try:
        with _silence(crew):
            yield
    except UnstickError as error:
        _give_up(" ".join(str(error).split()), crew)
    except KeyboardInterrupt:
        _give_up("interrupted before there was an answer", crew)


@contextmanager
def _silence(crew: Crew) -> Generator[None]:
    """Only the process that speaks is heard."""
    with ExitStack() as stack:
        if not crew.speaks:
            nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        yield


def _give_up(reason: str, crew: Crew) -> None:
    if crew.must_refuse():
        who = "unstick" if crew.speaks else f"unstick, process {crew.rank}"
        click.echo(f"{who}: {reason}", err=True)
    raise SystemExit(1) from None


if __name__ == "__main__":
    main(prog_name="unstick")
