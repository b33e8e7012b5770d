"""Rows of a grid on disk: each one appended when it is finished, read back by the same scan.

Answers: which rows were measured before, and is this the same scan?
Does not answer: what to measure; ``grid`` does.

A file holds JSON lines: what the scan is of, then a row each, with numbers written so that no bit is lost.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unstick.errors import BadData, Unreadable
from unstick.journal import append_line, object_of
from unstick.problem.batches import digest
from unstick.problem.problem import Problem

__all__ = ["Store", "fingerprint"]

KIND = "unstick/scan/1"
SAME_LOSS = 1e-6  # relative: another number of threads changes the last digits, another loss more

Row = dict[str, list[float]]
"""What was measured at the points of a row, by the name of the measure."""


class Store:
    """A file of finished rows.

    Args:
        path: Made where it is not there.
        of: What the scan is of; see ``fingerprint``.

    Raises:
        BadData: The file holds another scan, or cannot be written.
        Unreadable: It is something else.
    """

    def __init__(self, path: Path, of: Mapping[str, Any]) -> None:
        self.path = path
        self.rows: dict[int, Row] = {}
        header = json.dumps({"kind": KIND, **of})
        try:
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            lines, whole = text.split("\n")[:-1], text[: text.rfind("\n") + 1]
            if not lines and not header.startswith(text):
                raise Unreadable(f"{path} is not a stored scan; give another store=")
            if lines:
                self._check(lines[0], of)
                self._read(lines[1:])
            if whole != text:  # a line that was torn when the process was killed
                with path.open("r+b") as file:
                    file.truncate(len(whole.encode()))
            if not lines:
                self._write(header)
        except UnicodeDecodeError:
            raise Unreadable(f"{path} is not a stored scan; give another store=") from None
        except OSError as error:
            raise BadData(f"{path} cannot be used: {error.strerror or error}") from None

    def append(self, index: int, row: Row) -> None:
        """Keep a finished row; it is on disk when this returns."""
        self.rows[index] = row
        exact = {name: [value.hex() for value in values] for name, values in row.items()}
        self._write(json.dumps({"row": index, **exact}))

    def _check(self, line: str, of: Mapping[str, Any]) -> None:
        held = object_of(line)
        if held is None or held.get("kind") != KIND:
            raise Unreadable(f"{self.path} is not a stored scan; give another store=")
        other = [name for name, value in of.items() if not _same(name, held.get(name), value)]
        if other:
            raise BadData(
                f"{self.path} holds a scan of other {', '.join(other)}; expected the same scan to go on with, or a new file: "
                "give another store="
            )

    def _read(self, lines: Sequence[str]) -> None:
        for at, line in enumerate(lines):
            row = object_of(line)
            try:
                assert row is not None
                index = int(row.pop("row"))
                self.rows[index] = {
                    name: [float.fromhex(value) for value in values] for name, values in row.items()
                }
            except (AssertionError, AttributeError, KeyError, TypeError, ValueError):
                raise Unreadable(
                    f"line {at + 2} of {self.path} is not a row of a scan; remove it, or give another store="
                ) from None

    def _write(self, line: str) -> None:
        try:
            append_line(self.path, line)
        except OSError as error:
            raise BadData(f"{self.path} cannot be written: {error.strerror or error}") from None


def fingerprint(
    problem: Problem,
    origin: Tensor,
    directions: Tensor,
    rows: Sequence[Tensor],
    measures: Sequence[str],
) -> dict[str, Any]:
    """What tells one scan from another, in the order in which it is worth saying.

    Cost:
        A third of a gradient.
    """
    ours = problem.require_whole("a stored scan")
    state = [*problem.model.parameters(), *problem.model.buffers()]
    return {
        "parameters": _hash([origin, *state]),
        "data": [f"{found:08x}" for found in problem.team.gather(digest(ours.batches))],
        "loss": problem.value().hex(),
        "directions": _hash([directions]),
        "coordinates": _hash(rows),
        "measures": list(measures),
        "arithmetic": str(problem.dtype).removeprefix("torch."),
    }


def _hash(tensors: Sequence[Tensor]) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        octets: Any = flat.view(torch.uint8).numpy()
        found.update(octets)
    return found.hexdigest()[:32]


def _same(name: str, held: object, wanted: object) -> bool:
    if name != "loss" or not isinstance(held, str):
        return held == wanted
    try:
        one, other = float.fromhex(held), float.fromhex(str(wanted))
    except ValueError:
        return False
    return math.isclose(one, other, rel_tol=SAME_LOSS) or one.hex() == other.hex()
