"""Arms on a Ray cluster: one that is there, or one started on this machine and ended afterwards.

Answers: what came back, in the order in which it was finished?
Does not answer: what is measured, or what is kept (``running``, ``store``).

joblib's Ray backend hands over nothing before everything is done, and a kill would then lose all; arms are tasks of Ray's
own here. A task whose machine is lost is given to another one by Ray, three times at most.
"""

import logging
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from importlib import import_module
from typing import Any, TypeVar

from unstick.errors import UnstickError

__all__ = ["LostWorker", "joined", "spread"]

ANSWER_WITHIN = 20.0  # seconds; Ray itself waits for minutes, deaf to Ctrl-C
Item = TypeVar("Item")
Result = TypeVar("Result")


class LostWorker(UnstickError):
    """The process that did a piece of work died, again and again."""


@contextmanager
def joined(address: str | None, *, workers: int) -> Generator[Any]:
    """Ray, connected inside; what was not connected before is not afterwards, and what was started is ended.

    Args:
        address: host:port or "auto"; None: a cluster of this machine alone is started.
        workers: Processes of a cluster that is started.

    Raises:
        UnstickError: Ray is not installed, or no cluster answers.
    """
    try:
        ray: Any = import_module("ray")
    except ImportError:
        raise UnstickError("Ray is not installed: pip install 'unstick[ray]'") from None
    if ray.is_initialized():  # the caller's own
        yield ray
        return
    how: dict[str, Any] = {"address": "local", "num_cpus": workers, "include_dashboard": False}
    if address is not None:
        _check_answers(address)
        how = {"address": address}
    try:
        ray.init(**how, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise _none_at(address or "this machine", str(error)) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def spread(
    ray: Any, work: Callable[[Item], Result], items: Iterable[Item], *, ahead: int
) -> Generator[tuple[Item, Result | LostWorker]]:
    """Do a piece of work for each item, and give it back as soon as it is done.

    Args:
        ray: As ``joined`` gives it.
        work: Made of functions that every machine can import.
        items: What it is done for.
        ahead: How many at once at most.

    Raises:
        Exception: What ``work`` raised, as it was raised.
    """
    task = ray.remote(lambda item: work(item))  # Ray takes nothing but a plain function
    left, begun = deque(items), dict[Any, Item]()
    try:
        while left or begun:
            while left and len(begun) < ahead:
                item = left.popleft()
                begun[task.remote(item)] = item
            [done], _ = ray.wait(list(begun), num_returns=1)
            result = _result(ray, done)
            yield begun.pop(done), result
    finally:
        for each in begun:
            ray.cancel(each, force=True)


def _result(ray: Any, done: Any) -> Any:
    try:
        return ray.get(done)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        return LostWorker(f"its process died, such as for want of memory ({type(error).__name__})")


def _check_answers(address: str) -> None:
    """Ask in a process that can be given up, as Ray's own waiting cannot."""
    ask = [sys.executable, "-m", "ray.scripts.scripts", "health-check"]
    if address != "auto":
        ask += ["--address", address]
    try:
        said = subprocess.run(ask, capture_output=True, text=True, timeout=ANSWER_WITHIN)  # noqa: S603 - our own words
    except subprocess.TimeoutExpired:
        raise _none_at(address, f"no answer within {ANSWER_WITHIN:.0f} s") from None
    # Ray finds the token of a cluster of this machine by itself; that it was asked for is an answer
    if said.returncode and not (address == "auto" and "AuthenticationError" in said.stderr):
        lines = said.stderr.strip().splitlines() or ["it answers, but is not well"]
        raise _none_at(address, lines[-1].partition("Error: ")[2] or lines[-1])


def _none_at(address: str, why: str) -> UnstickError:
    said = " ".join(why.split())
    if "auth" in said.lower():
        said = "it asks for a token; set RAY_AUTH_MODE=token, and have its ~/.ray/auth_token here"
    return UnstickError(
        f"no Ray cluster at {address}: {said[:160]}; expected host:port, auto, or no --address for one of this machine"
    )
