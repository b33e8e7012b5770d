"""A training's whole state in one file, written so that a kill at any moment leaves the old one or the new one.

Answers: how are nested states of tensors and numbers kept, exactly, without executing anything when they are read?
Does not answer: what belongs to the state; that is ``loop``.

The file is in the safetensors format: tensors by name, the rest as JSON in its header.
"""

import json
import os
import struct
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from unstick.errors import BadCheckpoint

__all__ = ["FORMAT", "is_state", "read_state", "write_state"]

FORMAT = "unstick/training/1"
"""The version of what is written; it changes whenever an old reader would misread a new file."""


def write_state(path: Path, state: Any) -> None:
    """Write a tree of mappings, sequences, tensors, numbers and strings; the file that was there is replaced at once.

    Raises:
        BadCheckpoint: The file cannot be written, or holds no tensors of such a type.
        TypeError: Something else is in the tree.
    """
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_packed(state, "", tensors))
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(tensors, beside, metadata={"format": FORMAT, "state": tree})
        beside.replace(path)
    except (
        OSError,
        SafetensorError,
        KeyError,
    ) as error:  # KeyError: a type that the format has not
        beside.unlink(missing_ok=True)
        raise BadCheckpoint(f"{path} cannot be written: {error}") from None


def read_state(path: Path) -> Any:
    """Read what ``write_state`` wrote; tensors come on the CPU.

    Raises:
        BadCheckpoint: No such file, or not one of these.
    """
    if not path.is_file():
        raise BadCheckpoint(f"{path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            if about.get("format") != FORMAT:
                raise BadCheckpoint(
                    f"{path} is not the state of a training: its format is {about.get('format')!r}, expected {FORMAT!r}"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        return _unpacked(json.loads(about["state"]), tensors)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise BadCheckpoint(f"{path} is not the state of a training: {error}") from None


def is_state(path: Path) -> bool:
    """Whether a file says of itself that ``write_state`` wrote it; reads nothing but its header."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, 2**30)))
    except (OSError, struct.error, ValueError):
        return False
    about = cast("dict[str, Any]", header).get("__metadata__") if isinstance(header, dict) else None
    return isinstance(about, dict) and str(about.get("format", "")).startswith("unstick/training/")


def _packed(value: Any, where: str, tensors: dict[str, Tensor]) -> Any:
    """The JSON of a value; tensors go beside it under the name of their place."""
    if isinstance(value, Tensor):
        # a clone, since safetensors refuses shared memory
        return {"tensor": _beside(value.detach().cpu().clone().contiguous(), where, tensors)}
    if isinstance(value, dict):
        pairs = cast("dict[Any, Any]", value).items()
        for key in (key for key, _ in pairs if not isinstance(key, int | str)):
            raise TypeError(
                f"{where} has the key {key!r}; a state can have names and whole numbers"
            )
        packed = [
            [key, _packed(item, f"{where}.{key}".lstrip("."), tensors)] for key, item in pairs
        ]
        return {"map": packed}
    if isinstance(value, (list, tuple)):
        items = cast("list[Any]", value)
        if len(items) > 16 and all(type(item) is float for item in items):
            return {"floats": _beside(torch.tensor(items, dtype=torch.float64), where, tensors)}
        return [
            _packed(item, f"{where}.{at}".lstrip("."), tensors) for at, item in enumerate(items)
        ]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{where} is a {type(value).__name__}, which a state cannot hold")


def _beside(tensor: Tensor, where: str, tensors: dict[str, Tensor]) -> str:
    """Put a tensor beside the tree; its name there, which is that of its place unless another one has that."""
    name = where
    while name in tensors:
        name += "'"
    tensors[name] = tensor
    return name


def _unpacked(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpacked(item, tensors) for item in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    tagged = cast("dict[str, Any]", value)
    if "tensor" in tagged:
        return tensors[tagged["tensor"]]
    if "floats" in tagged:
        return tensors[tagged["floats"]].tolist()
    return {key: _unpacked(item, tensors) for key, item in tagged["map"]}
