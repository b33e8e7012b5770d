"""Checkpoints: read into a run, and written from a model.

Answers: does this file fit this model, and if not, in which names and shapes?
Does not answer: whether the parameters in it are finite; every evaluation of a ``Problem`` refuses those that are not.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, cast
from warnings import catch_warnings

from unstick.errors import BadCheckpoint

if TYPE_CHECKING:
    from torch import nn

    from unstick import Run

__all__ = [
    "SAVED",
    "check_free",
    "load_checkpoint",
    "read_state_dict",
    "save_checkpoint",
    "save_run",
]

SUFFIXES = (".pt", ".pth", ".safetensors")
SAVED = (".pt", ".pth")  # what holds an optimizer beside the model
NAMES_LISTED = 4  # names of each kind that a refusal spells out
WRAPPERS = {"module.": "DataParallel", "_orig_mod.": "torch.compile"}

State = Mapping[str, Any]


def load_checkpoint(path: Path, run: "Run") -> list[str]:
    """Load a checkpoint into the run's model, and into its optimizer and scheduler where both have one.

    Args:
        path: ``.pt`` or ``.pth`` (read as tensors only, no code is run) or ``.safetensors``: a state dict, or a
            dict with ``model`` and optionally ``optimizer`` and ``scheduler``.
        run: What to load into. Nothing is changed unless the model's part fits.

    Returns:
        What the file holds beyond that, by name: it was not used.

    Raises:
        BadCheckpoint: No such file, not a checkpoint, or names or shapes that do not fit.
    """
    holds = _read(path)
    apart = isinstance(holds.get("model"), Mapping)
    state = cast(State, holds["model"]) if apart else holds
    _load_model(run.problem.model, state, path)
    if not apart:
        return []
    unused = set(holds) - {"model"}
    for name, part in (("optimizer", run.optimizer), ("scheduler", run.scheduler)):
        if part is not None and name in holds:
            _load_part(part.load_state_dict, holds[name], f"{path}: its {name}")
            unused.discard(name)
    return sorted(unused)


def read_state_dict(path: Path) -> State:
    """The model's part of a checkpoint.

    Raises:
        BadCheckpoint: No such file, or not a checkpoint.
    """
    holds = _read(path)
    return cast(State, holds["model"]) if isinstance(holds.get("model"), Mapping) else holds


def check_free(path: Path, suffixes: tuple[str, ...] = SUFFIXES) -> None:
    """Refuse a place to save at before the work is done, not after.

    Raises:
        BadCheckpoint: Another suffix, a file that is there already, or no such folder.
    """
    if path.suffix not in suffixes:
        raise BadCheckpoint(f"{path} is not called {', '.join(suffixes[:-1])} or {suffixes[-1]}")
    if path.exists():
        raise BadCheckpoint(f"{path} exists and is not written over; choose another name")
    if not path.absolute().parent.is_dir():
        raise BadCheckpoint(f"{path} cannot be written: the folder {path.parent} does not exist")


def save_checkpoint(model: "nn.Module", path: Path) -> None:
    """Write the model's state dict to a new file, as ``.pt``, ``.pth`` or ``.safetensors``.

    Raises:
        BadCheckpoint: The file is there already or cannot be written.
    """
    # torch takes seconds to import; --help and refusals do without it
    import torch
    from safetensors.torch import save

    check_free(path)
    state = {
        name: value.detach().clone().contiguous() for name, value in model.state_dict().items()
    }
    try:
        with path.open("xb") as file:
            if path.suffix == ".safetensors":
                file.write(save(state))
            else:
                torch.save(state, file)
    except OSError as error:
        raise BadCheckpoint(f"{path} cannot be written: {error.strerror or error}") from None


def save_run(run: "Run", path: Path) -> None:
    """Write the state dicts of a run's model and optimizer to a new file, as ``model`` and ``optimizer``.

    Raises:
        BadCheckpoint: The file is there already or cannot be written.
    """
    import torch  # late, as above

    check_free(path, SAVED)
    state = {"model": run.problem.model.state_dict()}
    if run.optimizer is not None:
        state["optimizer"] = run.optimizer.state_dict()
    try:
        with path.open("xb") as file:
            torch.save(state, file)
    except OSError as error:
        raise BadCheckpoint(f"{path} cannot be written: {error.strerror or error}") from None


def _read(path: Path) -> State:
    # torch takes seconds to import; --help and refusals do without it
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    if path.suffix not in SUFFIXES:
        raise BadCheckpoint(f"{path} is not a checkpoint; expected {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise BadCheckpoint(f"{path} does not exist")
    try:
        if path.suffix == ".safetensors":
            from unstick.training.checkpoint import is_state, read_state

            if is_state(path):  # a training's own, with its optimizer
                return {name: read_state(path)[name] for name in ("model", "optimizer")}
            return load(path.read_bytes())
        with catch_warnings(
            action="ignore"
        ):  # about the pickle protocol; what it comes to is said below
            holds: object = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise BadCheckpoint(
            f"{path} is not a checkpoint of tensors, or holds pickled objects, which are never run; "
            "save model.state_dict()"
        ) from None
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise BadCheckpoint(f"{path} is not a checkpoint: {_short(error)}") from None
    if not isinstance(holds, Mapping):
        raise BadCheckpoint(
            f"{path} holds {type(holds).__name__}; expected a state dict, or a dict with 'model'"
        )
    return cast(State, holds)


def _load_model(model: "nn.Module", state: State, path: Path) -> None:
    own: State = model.state_dict()
    wrong: list[str] = []
    if missing := [name for name in own if name not in state]:
        wrong.append(f"lacks {_listed(missing)}")
    if unexpected := [name for name in state if name not in own]:
        wrong.append(f"has {_listed(unexpected)}, which the model has not{_wrapped(unexpected)}")
    shapes = [
        f"{name} {_shape(state[name])} for {_shape(own[name])}"
        for name in own
        if name in state and _shape(state[name]) != _shape(own[name])
    ]
    if shapes:
        wrong.append(f"differs in shape: {_listed(shapes)}")
    if wrong:
        raise BadCheckpoint(f"{path} does not fit the model: it {'; it '.join(wrong)}")
    _load_part(model.load_state_dict, state, str(path))


def _load_part(load: Callable[[Any], object], state: object, what: str) -> None:
    try:
        load(state)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadCheckpoint(f"{what} does not fit: {_short(error)}") from None


def _wrapped(names: Iterable[str]) -> str:
    for prefix, wrapper in WRAPPERS.items():
        if all(name.startswith(prefix) for name in names):
            return f" (saved from a {wrapper} wrapper: save the state dict of the model inside)"
    return ""


def _shape(value: object) -> str:
    shape: object = getattr(value, "shape", None)
    return f"({type(value).__name__})" if shape is None else str(list(cast(Iterable[int], shape)))


def _listed(names: list[str]) -> str:
    more = len(names) - NAMES_LISTED
    return ", ".join(names[:NAMES_LISTED]) + (f" and {more} more" if more > 0 else "")


def _short(error: BaseException) -> str:
    """The first line of the reason: torch's own run over many."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
