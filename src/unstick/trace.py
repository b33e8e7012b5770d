"""The record of a run: what the loss was at each update, and at which settings.

Answers: what happened at update t, whoever ran it?
Does not answer: whether that is a stall; ``diagnosis`` reads this and nothing else of a run.
"""

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Self, cast

from unstick.errors import BadData

__all__ = ["COLUMNS", "RunTrace"]

COLUMNS: tuple[str, ...] = (
    "update",
    "loss",
    "learning_rate",
    "batch_size",
    "seconds",
    "gradient_norm",
    "update_norm",
)
"""What a written trace has in each row, in this order; what was not recorded is left empty."""

SUFFIXES = (".jsonl", ".csv", ".parquet")


@dataclass(slots=True)
class RunTrace:
    """One entry an update; what was not recorded is ``None``.

    Example:
        >>> trace = RunTrace()
        >>> trace.record(loss=2.5, lr=0.1)
        >>> trace.record(loss=2.25, lr=0.1)
        >>> trace.updates, trace.loss
        ([1, 2], [2.5, 2.25])
    """

    updates: list[int] = field(default_factory=list[int])
    loss: list[float] = field(default_factory=list[float])  # of the batch, before the update
    learning_rate: list[float | None] = field(default_factory=list[float | None])
    batch_size: list[int | None] = field(default_factory=list[int | None])
    seconds: list[float | None] = field(default_factory=list[float | None])  # that the update took
    gradient_norm: list[float | None] = field(default_factory=list[float | None])  # before clipping
    update_norm: list[float | None] = field(
        default_factory=list[float | None]
    )  # ‖θ after − θ before‖

    def record(
        self,
        *,
        loss: float,
        lr: float | None = None,
        update: int | None = None,
        batch_size: int | None = None,
        seconds: float | None = None,
        gradient_norm: float | None = None,
        update_norm: float | None = None,
    ) -> None:
        """Add one update; without ``update`` it is the one after the last."""
        if update is None:
            update = self.updates[-1] + 1 if self.updates else 1
        self.updates.append(update)
        self.loss.append(float(loss))
        self.learning_rate.append(lr)
        self.batch_size.append(batch_size)
        self.seconds.append(seconds)
        self.gradient_norm.append(gradient_norm)
        self.update_norm.append(update_norm)

    def extend(self, other: Self) -> None:
        """Add the updates of a run that went on from here, counted on from the last one."""
        last = self.updates[-1] if self.updates else 0
        self.updates.extend(last + update for update in other.updates)
        for name in ("loss", *COLUMNS[2:]):
            getattr(self, name).extend(getattr(other, name))

    @classmethod
    def of_losses(cls, losses: Iterable[float]) -> Self:
        """A trace from a plain sequence of losses."""
        trace = cls()
        for loss in losses:
            trace.record(loss=loss)
        return trace

    def rows(self) -> Iterable[dict[str, float | None]]:
        """One mapping an update, with the names of ``COLUMNS``."""
        columns = (
            self.updates,
            self.loss,
            self.learning_rate,
            self.batch_size,
            self.seconds,
            self.gradient_norm,
            self.update_norm,
        )
        for row in zip(*columns, strict=True):
            yield dict(zip(COLUMNS, row, strict=True))

    def write(self, path: str | Path) -> None:
        """Write the trace as ``.jsonl`` (one object an update), ``.csv`` or ``.parquet``.

        inf and nan are written as ``Infinity`` and ``NaN``, as Python and pandas read them.

        Raises:
            BadData: Another suffix, or Parquet without the package pyarrow.
        """
        path = Path(path)
        match path.suffix:
            case ".jsonl":
                lines = (json.dumps(row) + "\n" for row in self.rows())
                path.write_text("".join(lines), encoding="utf-8")
            case ".csv":
                with path.open("w", encoding="utf-8", newline="") as file:
                    writer = csv.DictWriter(file, COLUMNS)
                    writer.writeheader()
                    writer.writerows(self.rows())
            case ".parquet":
                self._write_parquet(path)
            case suffix:
                raise BadData(
                    f"a trace is written as {', '.join(SUFFIXES)}, not {suffix!r}: {path}"
                )

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read what ``write`` wrote, or any table of these formats with a column ``loss``.

        Raises:
            BadData: No such file, another suffix, or no losses in it; says what was found.
        """
        path = Path(path)
        if path.suffix not in SUFFIXES:
            raise BadData(f"{path} is no trace; expected {', '.join(SUFFIXES)}")
        if not path.is_file():
            raise BadData(f"{path} does not exist")
        trace = cls()
        for number, row in enumerate(_rows_of(path), 1):
            loss = _number(row.get("loss"), path, number)
            if loss is None:
                found = ", ".join(map(str, row)) or "nothing"
                raise BadData(
                    f"{path}, row {number}: no loss; expected a column 'loss', found {found}"
                )
            rest = {
                name: _number(row.get(name), path, number) for name in COLUMNS if name != "loss"
            }
            update, batch = rest.pop("update"), rest.pop("batch_size")
            rate = rest.pop("learning_rate")
            trace.record(
                loss=loss,
                lr=_number(row.get("lr"), path, number) if rate is None else rate,
                update=None if update is None else int(update),
                batch_size=None if batch is None else int(batch),
                **rest,
            )
        if not trace.loss:
            raise BadData(f"{path} holds no update; expected one row for each")
        return trace

    def _write_parquet(self, path: Path) -> None:
        arrow, parquet = _parquet()
        columns = {name: [row[name] for row in self.rows()] for name in COLUMNS}
        whole = {"update": arrow.int64(), "batch_size": arrow.int64()}
        types = [(name, whole.get(name, arrow.float64())) for name in COLUMNS]
        parquet.write_table(arrow.table(columns, schema=arrow.schema(types)), path)


def _rows_of(path: Path) -> Iterable[Mapping[str, Any]]:
    if path.suffix == ".parquet":
        return cast("Iterable[Mapping[str, Any]]", _parquet()[1].read_table(path).to_pylist())
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".csv":
        return csv.DictReader(text.splitlines())
    return _objects(text, path)


def _objects(text: str, path: Path) -> Iterable[Mapping[str, Any]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise BadData(f"{path}, line {number} is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise BadData(f'{path}, line {number} is no object; expected {{"loss": …}}')
        yield cast("Mapping[str, Any]", row)


def _number(value: object, path: Path, row: int) -> float | None:
    """A cell as a number; None where it is empty."""
    if value is None or value == "":
        return None
    try:
        return float(cast("Any", value))
    except (TypeError, ValueError):
        raise BadData(f"{path}, row {row}: {value!r} is not a number") from None


def _parquet() -> tuple[Any, Any]:
    try:
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise BadData(
            "Parquet needs the package pyarrow, which is not installed: pip install pyarrow, or use .jsonl"
        ) from None
    return arrow, parquet
