"""A user's own data, given as ``file.py:function``.

Answers: what does the user's function return, and if it cannot be used, where in their file is the reason?
Does not answer: how a file of numbers is read; that is what the function is for.
"""

import inspect
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from unstick.data.dataset import Dataset
from unstick.errors import BadData, UnstickError

__all__ = ["blaming", "called", "imported", "own"]

NAMES_LISTED = 8  # how many functions a refusal names when none comes close
TEST_SHARE = 5  # one sample in five is set aside where the function returns no test part


def own(target: str, *, folder: Path | None, seed: int | None) -> Dataset:
    """What the function of ``file.py:function`` returns, as a ``Dataset``.

    Args:
        target: The function returns a ``Dataset``, ``(inputs, targets)``, or ``(train_inputs, train_targets,
            test_inputs, test_targets)`` of tensors or NumPy arrays. Of two arrays a seeded fifth is to test on.
            Floating-point numbers become float32; whole targets become classes, int64.
        folder: Handed to the function if it has a parameter ``data_dir``.
        seed: Handed to the function if it has a parameter ``seed``; also chooses the test part; None: 0.

    Raises:
        BadData: Not of this form, no such file or function, an exception in it (named with its line), or
            something else returned.
    """
    asked = {"data_dir": folder, "seed": seed}
    given = called(
        target,
        arguments={name: value for name, value in asked.items() if value is not None},
        otherwise={"data_dir": None, "seed": 0},
    )
    if isinstance(given, Dataset):
        return given
    parts: Sequence[object] = (
        cast("Sequence[object]", given) if isinstance(given, tuple | list) else ()
    )
    if len(parts) not in (2, 4):
        what = f"{len(parts)} things" if parts else type(given).__name__
        raise BadData(
            f"{target} returned {what}; expected unstick.data.Dataset, (inputs, targets), or (train_inputs, "
            "train_targets, test_inputs, test_targets) of tensors or NumPy arrays"
        )
    inputs = [_inputs(part, target) for part in parts[::2]]
    targets = [_targets(part, target) for part in parts[1::2]]
    how = "its own test part"
    if len(parts) == 2:
        inputs, targets = _cut(inputs[0], targets[0], target, seed or 0)
        how = f"a random fifth to test (seed {seed or 0})"
    classes = 0
    if not any(part.is_floating_point() for part in targets):
        classes = 1 + max((int(part.max()) for part in targets if part.numel()), default=0)
    return Dataset(
        name=target,
        train_inputs=inputs[0],
        train_targets=targets[0],
        test_inputs=inputs[1],
        test_targets=targets[1],
        description=f"from {target}, {how}; {len(inputs[0]):,} to train, {len(inputs[1]):,} to test",
        classes=classes,
    )


def called(
    target: str, *, arguments: Mapping[str, object], otherwise: Mapping[str, object]
) -> object:
    """Import the file of ``file.py:function``, call the function, and return what it returns.

    The file's folder is importable meanwhile.

    Args:
        target: The file and the function.
        arguments: For the parameters of these names, if the function has them.
        otherwise: For parameters of these names that have neither an argument nor a default of the user's own.

    Raises:
        BadData: Not of this form, no such file or function, or an exception in it, named with its line.
    """
    name, _, function_name = target.rpartition(":")
    path = Path(name)
    if not function_name or path.suffix != ".py":
        raise BadData(f"{target!r} is no function in a Python file; expected file.py:function")
    if not path.is_file():
        raise BadData(f"{path} does not exist; expected file.py:function")
    folder = str(path.absolute().parent)
    sys.path.insert(0, folder)  # its neighbors can be imported, as when Python runs the file
    try:
        function = _function(imported(path, error=BadData), function_name, path)
        with blaming(path, f"reading the parameters of {function_name}", error=BadData):
            parameters = inspect.signature(function).parameters
        given = {key: arguments[key] for key in parameters if key in arguments}
        for key in _needed(parameters, given):
            if key not in otherwise:
                raise BadData(
                    f"{function_name} in {path} needs {key}; it is called with nothing but "
                    f"{' and '.join(otherwise)}, if it has them: give {key} a default"
                )
            given[key] = otherwise[key]
        with blaming(path, f"calling {function_name}", error=BadData):
            return function(**given)
    finally:
        sys.path.remove(folder)


def imported(path: Path, *, error: type[UnstickError]) -> ModuleType:
    """The module that a file is, under its own name where that is free.

    Raises:
        UnstickError: Of the given kind, where the file's code raises anything; nobody finds half a module then.
    """
    name = path.stem if path.stem not in sys.modules else f"unstick_user_{path.stem}"
    spec = spec_from_file_location(name, path)
    assert spec is not None, "a .py file always has a spec"
    assert spec.loader is not None, "a .py file always has a loader"
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up there
    try:
        with blaming(path, "importing it", error=error):
            spec.loader.exec_module(module)
    except error:
        del sys.modules[name]
        raise
    return module


def _function(module: ModuleType, name: str, path: Path) -> Callable[..., object]:
    found = getattr(module, name, None)
    if callable(found):
        return found
    if found is not None:
        raise BadData(f"{name} in {path} is {type(found).__name__}; expected a function")
    functions = [key for key, value in vars(module).items() if inspect.isfunction(value)]
    near = get_close_matches(name, functions) or functions[:NAMES_LISTED]
    raise BadData(f"{path} has no function {name}; it has {', '.join(near) or 'none'}")


def _needed(parameters: Mapping[str, inspect.Parameter], given: Mapping[str, object]) -> list[str]:
    return [
        key
        for key, parameter in parameters.items()
        if key not in given
        and parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]


@contextmanager
def blaming(path: Path, what: str, *, error: type[UnstickError]) -> Generator[None]:
    """Turn anything that the user's code raises into one line with the place in their file.

    Raises:
        UnstickError: Of the given kind.
    """
    try:
        yield
    except (Exception, SystemExit) as raised:  # the user's code may raise anything
        line = _line(raised, path)
        place = f"{path}, line {line}" if line else str(path)
        said = " ".join(str(raised).split())
        kind = type(raised).__name__
        raise error(f"{place}: {what} raised {kind}{': ' if said else ''}{said}") from raised


def _line(error: BaseException, path: Path) -> int | None:
    """The innermost line of the user's file in the traceback."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return error.lineno if Path(error.filename) == path else None
    line, trace = None, error.__traceback__
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename).absolute() == path.absolute():
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _inputs(given: object, target: str) -> Tensor:
    inputs = _tensor(given, target)
    if not inputs.is_floating_point():
        raise BadData(
            f"{target} returned inputs of type {inputs.dtype}; expected floating point: convert and scale them, "
            "such as pixels.float() / 255"
        )
    return inputs.float()


def _targets(given: object, target: str) -> Tensor:
    targets = _tensor(given, target)
    if targets.is_complex():
        raise BadData(f"{target} returned complex targets; expected classes or real numbers")
    return targets.float() if targets.is_floating_point() else targets.long()


def _tensor(given: object, target: str) -> Tensor:
    if isinstance(given, Tensor):
        return given.detach()
    if not isinstance(given, np.ndarray):
        raise BadData(
            f"{target} returned {type(given).__name__} among its arrays; expected tensors or NumPy arrays"
        )
    array: Any = given
    try:
        return torch.tensor(np.ascontiguousarray(array))
    except TypeError:
        raise BadData(
            f"{target} returned a NumPy array of type {array.dtype}; expected numbers"
        ) from None


def _cut(
    inputs: Tensor, targets: Tensor, target: str, seed: int
) -> tuple[list[Tensor], list[Tensor]]:
    samples = len(inputs) if inputs.ndim else 0
    if samples < 2 or targets.ndim == 0 or len(targets) != samples:
        raise BadData(
            f"{target} returned inputs of shape {list(inputs.shape)} and targets of shape {list(targets.shape)}; "
            "expected as many of one as of the other, and at least two"
        )
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(seed))
    test = order[: max(1, samples // TEST_SHARE)].sort().values
    train = order[max(1, samples // TEST_SHARE) :].sort().values
    return [inputs[train], inputs[test]], [targets[train], targets[test]]
