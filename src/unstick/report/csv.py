"""Rows of a record for a spreadsheet."""

import csv
from io import StringIO

from unstick.errors import UnstickError
from unstick.record import Record
from unstick.studies.frame.result import StudyResult
from unstick.studies.frame.table import Value

__all__ = ["to_csv"]


def to_csv(record: Record) -> str:
    """Every arm on every seed of a study: a column for each number, a curve as numbers with spaces between.

    Raises:
        UnstickError: The record is of another kind.
    """
    if not isinstance(record, StudyResult):
        raise UnstickError(
            f"{type(record).__name__} has no rows; CSV is for the result of a study: write .json or .html instead"
        )
    names = list(dict.fromkeys(name for row in record.rows for name in row.values))
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["arm", "seed", *names, "seconds", "failed"])
    for row in record.rows:
        cells = [_cell(row.values.get(name)) for name in names]
        writer.writerow([row.arm, row.seed, *cells, row.seconds, row.failed])
    return out.getvalue()


def _cell(value: Value) -> object:
    return " ".join(map(repr, value)) if isinstance(value, tuple) else value
