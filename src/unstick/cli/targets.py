"""From ``file.py:function`` and a checkpoint to the run that they describe.

Answers: what does the user's function return, and if it cannot be had, where in their file is the reason?
Does not answer: whether a checkpoint fits the model; ``checkpoints`` tells.
"""

import inspect
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, redirect_stdout
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

import click

import unstick
from unstick.cli.checkpoints import load_checkpoint
from unstick.errors import BadTarget

__all__ = ["call_target", "load_run", "load_target"]

NAMES_LISTED = 8  # how many functions a refusal names when none comes close


def load_run(target: str, *, checkpoint: Path | None, data_dir: Path | None) -> "unstick.Run":
    """Load the target and its checkpoint; what the checkpoint holds in vain is said on stderr.

    Raises:
        BadTarget: See ``load_target``.
        BadCheckpoint: See ``load_checkpoint``.
    """
    run = load_target(target, data_dir=data_dir)
    unused = [] if checkpoint is None else load_checkpoint(checkpoint, run)
    if unused:
        click.echo(f"{checkpoint} also holds {', '.join(unused)}: not used", err=True)
    return run


def load_target(target: str, *, data_dir: Path | None = None) -> "unstick.Run":
    """Import the file, call the function, and return its run.

    The file's folder is importable meanwhile, and what the file prints goes to stderr.

    Args:
        target: ``file.py:function``; the function returns an ``unstick.Problem`` or an ``unstick.Run``.
        data_dir: Handed to the function if it has a parameter of this name.

    Raises:
        BadTarget: Not of this form, no such file or function, an exception in it (named with its line), or
            something else returned.
    """
    given = call_target(target, data_dir=data_dir)
    if isinstance(given, unstick.Problem):
        return unstick.Run(given)
    if isinstance(given, unstick.Run):
        return given
    path, _, function = target.rpartition(":")
    raise BadTarget(
        f"{function} in {path} returned {type(given).__name__}; expected unstick.Problem or unstick.Run"
    )


def call_target(target: str, *, data_dir: Path | None = None) -> object:
    """Import the file, call the function, and return what it returns.

    Raises:
        BadTarget: Not of this form, no such file or function, or an exception in it.
    """
    name, _, function_name = target.rpartition(":")
    if not name or not function_name:
        raise BadTarget(f"{target!r} is no target; expected file.py:function")
    path = Path(name)
    if path.suffix != ".py":
        raise BadTarget(f"{path} is not a Python file; expected file.py:function")
    if not path.is_file():
        raise BadTarget(f"{path} does not exist")
    from unstick.data.own import imported  # with torch: late, so that --help is quick

    with _at_home(path), redirect_stdout(sys.stderr):
        module = imported(path, error=BadTarget)
        function = _function(module, function_name, path)
        return _called(function, function_name, path, data_dir)


@contextmanager
def _at_home(path: Path) -> Generator[None]:
    """The file's neighbors can be imported, as when Python runs the file."""
    folder = str(path.absolute().parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _function(module: ModuleType, name: str, path: Path) -> Callable[..., object]:
    found = getattr(module, name, None)
    if callable(found):
        return found
    if found is not None:
        raise BadTarget(f"{name} in {path} is {type(found).__name__}, not a function")
    functions = [key for key, value in vars(module).items() if inspect.isfunction(value)]
    near = get_close_matches(name, functions) or functions[:NAMES_LISTED]
    raise BadTarget(f"{path} has no function {name}; it has {', '.join(near) or 'none'}")


def _called(function: Callable[..., Any], name: str, path: Path, data_dir: Path | None) -> object:
    parameters = inspect.signature(function).parameters
    needed = [
        key
        for key, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and key != "data_dir"
    ]
    if needed:
        raise BadTarget(
            f"{name} in {path} needs {', '.join(needed)}; a target is called with nothing but data_dir, if it has one"
        )
    from unstick.data.own import blaming  # with torch: late, so that --help is quick

    with blaming(path, f"calling {name}", error=BadTarget):
        asked = parameters.get("data_dir")
        # without --data-dir a default of the user's own stands
        if asked is None or (data_dir is None and asked.default is not asked.empty):
            return function()
        return function(data_dir=data_dir)
