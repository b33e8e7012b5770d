"""What long work says while it runs: how much it may take, then how far it is. All of it on stderr.

Answers: is it worth waiting?
Does not answer: what was found; the answer alone goes to stdout.
"""

import sys
from collections.abc import Generator
from contextlib import contextmanager, redirect_stdout
from threading import Lock, Timer
from time import monotonic
from typing import TYPE_CHECKING, Protocol

import click

from unstick.integrations.torchrun import Crew

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from unstick import Problem

__all__ = ["Watcher", "expected", "speaks", "watching"]

PROMISE_AFTER = 0.2  # seconds; a refusal comes sooner and is then the only line
BAR_AFTER = 2.0  # seconds; shorter work needs no bar
LOOK_BACK = (
    86400.0  # seconds of work behind the time left; one arm may take longer than rich's half minute
)
LINE_EVERY = 10.0  # seconds between plain lines where there is no terminal


class Watcher(Protocol):
    """What library calls take as ``progress``."""

    def __call__(self, stage: str, done: float, total: float, /) -> None:
        """So much of ``total`` of this stage is done."""
        ...


def expected(problem: "Problem", gradients: float) -> str:
    """What work of at most so many gradients takes on this machine, in one line."""
    of = f" of {problem.samples:,} samples" if problem.samples else ""
    one, all_of_it = _duration(problem.price(1)), _duration(problem.price(gradients))
    return f"up to {gradients:,g} gradients{of}; one takes {one} here: at most about {all_of_it}"


def speaks() -> bool:
    """Whether this process writes files and prints: of those that share the work, one does."""
    context = click.get_current_context(silent=True)
    crew = None if context is None else context.find_root().obj
    return not isinstance(crew, Crew) or crew.speaks


@contextmanager
def watching(promise: str | None, *, as_json: bool, quiet: bool) -> Generator[Watcher | None]:
    """Show progress while the body works; what the user's model prints meanwhile goes to stderr too.

    Args:
        promise: What it will take; said as soon as it is clear that the work has begun.
        as_json: A program is reading: plain lines instead of a bar.
        quiet: Neither promise nor progress; the watcher is ``None``.
    """
    with redirect_stdout(sys.stderr):
        if quiet:
            yield None
            return
        bars = sys.stderr.isatty() and not as_json
        display = _Bar(promise) if bars else _Lines(promise)
        timer = Timer(PROMISE_AFTER, display.promise)
        timer.daemon = True
        timer.start()
        try:
            yield display
        finally:
            timer.cancel()
            display.close()


class _Promise:
    """One line, said once, by whichever thread comes first."""

    def __init__(self, text: str | None) -> None:
        self._text = text
        self._lock = Lock()

    def say(self) -> None:
        with self._lock:
            if self._text is not None:
                click.echo(self._text, err=True)
            self._text = None


class _Lines:
    """Plain lines, now and then."""

    def __init__(self, promise: str | None) -> None:
        self._promise = _Promise(promise)
        self._told = monotonic()
        self._first: dict[str, tuple[float, float]] = {}  # when a stage began, and how far it was

    def promise(self) -> None:
        self._promise.say()

    def __call__(self, stage: str, done: float, total: float, /) -> None:
        self._promise.say()
        now = monotonic()
        began, before = self._first.setdefault(stage, (now, done))
        if now - self._told >= LINE_EVERY:
            self._told = now
            pace = (now - began) / (done - before) if done > before else 0.0
            left = f"; about {_duration(pace * (total - done))} left" if pace else ""
            click.echo(f"{stage}: {done:,.0f} of {total:,.0f}{left}", err=True)

    def close(self) -> None:
        """Nothing is left on the screen."""


class _Bar:
    """A bar with the time left, from the moment that the work turns out to take a while."""

    def __init__(self, promise: str | None) -> None:
        self._promise = _Promise(promise)
        self._began = monotonic()
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def promise(self) -> None:
        self._promise.say()

    def __call__(self, stage: str, done: float, total: float, /) -> None:
        self._promise.say()
        if self._bar is None and monotonic() - self._began >= BAR_AFTER:
            self._bar = _opened()
        if self._bar is not None:
            if stage not in self._tasks:
                self._tasks[stage] = self._bar.add_task(stage, total=total)
            self._bar.update(self._tasks[stage], completed=done, total=total)

    def close(self) -> None:
        """Take the bar off the screen: the answer stands alone."""
        if self._bar is not None:
            self._bar.stop()


def _opened() -> "Progress":
    # rich takes a while to import; short work does without it
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    bar = Progress(
        *columns, console=Console(stderr=True), transient=True, speed_estimate_period=LOOK_BACK
    )
    bar.start()
    return bar


def _duration(seconds: float) -> str:
    """As people say it: 3.1 ms, 0.6 s, 4 min, 2.5 h."""
    if seconds < 0.1:
        return f"{seconds * 1e3:.1f} ms"
    if seconds < 100:
        return f"{seconds:.1f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
