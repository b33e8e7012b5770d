"""Lines that outlive the process that wrote them: what stores of finished work are made of."""

import json
import os
from pathlib import Path
from typing import Any, cast

__all__ = ["append_line", "object_of"]


def append_line(path: Path, text: str) -> None:
    """Append a line to a file; it is on the disk when this returns.

    Raises:
        OSError: It cannot be written.
    """
    with path.open("ab") as file:
        file.write(text.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def object_of(line: str | bytes) -> dict[str, Any] | None:
    """The JSON object of a line; None where it holds none."""
    try:
        found: object = json.loads(line)
    except ValueError:
        return None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None
