"""Finished starts of a search on disk, so that a search that was cut off goes on where it was.

Answers: which starts are done, and what did they find?
Does not answer: how records are written for others; that is ``report``.

One JSON object a line: a header with a fingerprint of problem, starts and settings, then a line for each finished start,
on the disk before the next one ends. A last line that a kill tore is dropped.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unstick.critical.flatness import Flatness
from unstick.critical.found import Found
from unstick.errors import Unreadable
from unstick.journal import append_line, object_of
from unstick.problem.cost import Cost
from unstick.problem.problem import Problem

__all__ = ["Store", "fingerprint"]

FORMAT = "unstick-search/1"
TENSORS = ("parameters", "losses", "squares")
MARKED = 3  # starts at which loss and gradient enter the fingerprint


def fingerprint(problem: Problem, starts: Tensor, settings: Mapping[str, object]) -> str:
    """A text that differs where the problem, the starts or the settings do.

    The problem enters by its parameters' names and shapes and by loss and gradient at some starts to seven digits.

    Cost:
        4/3 gradients for each of at most three starts.
    """
    some = starts[:MARKED]
    norms = problem.gradients(some).double().norm(dim=1).tolist()
    numbers = [f"{number:.6e}" for number in (*problem.values(some).tolist(), *norms)]
    layout = [
        (name, list(shape))
        for name, shape in zip(problem.layout.names, problem.layout.shapes, strict=True)
    ]
    told = json.dumps([layout, str(problem.dtype), list(starts.shape), numbers, dict(settings)])
    octets = starts.detach().double().cpu().contiguous().numpy().tobytes()
    return hashlib.sha256(told.encode() + octets).hexdigest()


class Store:
    """The file of one search.

    Args:
        path: Where; made if it does not exist.
        mark: The search's fingerprint.

    Raises:
        Unreadable: The file is something else, or belongs to another search.
    """

    def __init__(self, path: str | Path, mark: str) -> None:
        self.path = Path(path)
        self.done: dict[int, Found] = {}
        try:
            octets = self.path.read_bytes() if self.path.exists() else b""
            self._resume(octets, mark)
        except OSError as error:
            raise Unreadable(
                f"{self.path} cannot be used as a store: {error.strerror}; expected a file that can be written"
            ) from None

    def add(self, index: int, found: Found) -> None:
        """Append a finished start; on the disk when this returns."""
        self._append({"start": index, "found": _written(found)})
        self.done[index] = found

    def _resume(self, octets: bytes, mark: str) -> None:
        whole = octets[: octets.rfind(b"\n") + 1]  # what a kill tore has no end of line
        lines = whole.splitlines()
        if not lines:
            if octets and not octets.startswith(b'{"format"'):
                raise Unreadable(
                    f"{self.path} is no store of a search; expected none, or a file of its own"
                )
            self.path.write_bytes(b"")
            self._append({"format": FORMAT, "fingerprint": mark})
            return
        header = self._object(lines[0], 1)
        if header.get("format") != FORMAT:
            raise Unreadable(
                f"{self.path} is no store of a search; expected none, or a file of its own"
            )
        if header.get("fingerprint") != mark:
            raise Unreadable(
                f"{self.path} belongs to another search: problem, starts or settings differ; give the same ones to go on, "
                "or another file"
            )
        for line, text in enumerate(lines[1:], 2):
            entry = self._object(text, line)
            try:
                self.done[int(entry["start"])] = _read(entry["found"])
            except (KeyError, TypeError, ValueError):
                raise Unreadable(f"{self.path}, line {line} holds no finished start") from None
        if len(whole) < len(octets):
            with self.path.open("r+b") as file:
                file.truncate(len(whole))

    def _object(self, text: bytes, line: int) -> dict[str, Any]:
        entry = object_of(text)
        if entry is None:
            raise Unreadable(
                f"{self.path}, line {line} is not a JSON object; expected the store of a search, or none"
            )
        return entry

    def _append(self, entry: Mapping[str, object]) -> None:
        append_line(self.path, json.dumps(entry, ensure_ascii=False))


def _written(found: Found) -> dict[str, Any]:
    """A found start without its point, as JSON takes it; every number comes back bit for bit."""
    bare = replace(found, point=None)
    entry = {name: getattr(bare, name) for name in Found.__dataclass_fields__}
    entry["flatness"] = None if bare.flatness is None else asdict(bare.flatness)
    entry["cost"] = asdict(bare.cost)
    entry["dtype"] = str(bare.parameters.dtype).removeprefix("torch.")
    for name in TENSORS:
        entry[name] = entry[name].detach().double().cpu().tolist()
    return entry


def _read(entry: dict[str, Any]) -> Found:
    fields = dict(entry)
    dtype = {"float32": torch.float32, "float64": torch.float64}[fields.pop("dtype")]
    for name in TENSORS:
        fields[name] = torch.tensor(fields[name], dtype=torch.float64)
    fields["parameters"] = fields["parameters"].to(dtype)
    fields["flatness"] = None if fields["flatness"] is None else Flatness(**fields["flatness"])
    fields["inertia"] = None if fields["inertia"] is None else tuple(fields["inertia"])
    fields["cost"] = Cost(**fields["cost"])
    return Found(**fields)
