"""A trace is written and read back without loss, and reads what others write."""

import math

import pytest

from unstick.errors import BadData
from unstick.trace import RunTrace


def filled():
    trace = RunTrace()
    trace.record(loss=2.5, lr=0.1, batch_size=32, seconds=0.01)
    trace.record(loss=math.nan, lr=0.05, gradient_norm=1e-300, update_norm=math.inf)
    trace.record(loss=0.1 + 0.2, update=7)
    return trace


def test_a_run_that_goes_on_is_counted_on():
    trace, other = filled(), filled()
    trace.extend(other)

    assert trace.updates == [1, 2, 7, 8, 9, 14]
    assert repr(trace.loss) == repr(other.loss * 2)
    assert trace.batch_size == other.batch_size * 2


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_trace_is_read_back_as_it_was(tmp_path, suffix):
    path = tmp_path / f"trace.{suffix}"
    filled().write(path)

    assert repr(RunTrace.read(path)) == repr(filled())  # by text: nan is not equal to itself


def test_parquet_needs_its_package_and_works_with_it(tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "trace.parquet"
    filled().write(path)

    assert repr(RunTrace.read(path)) == repr(filled())


def test_losses_written_by_others_are_read(tmp_path):
    plain = tmp_path / "losses.csv"
    plain.write_text("loss,lr,epoch\n2.0,0.1,1\n1.5,,1\n")
    trace = RunTrace.read(plain)

    assert trace.loss == [2.0, 1.5]
    assert trace.learning_rate == [0.1, None]
    assert trace.updates == [1, 2]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.txt", "1", "is no trace; expected .jsonl, .csv, .parquet"),
        ("a.csv", "accuracy\n1\n", "no loss; expected a column 'loss', found accuracy"),
        ("a.csv", "loss\nlow\n", "'low' is not a number"),
        ("a.jsonl", '{"loss": 1}\n{"loss"\n', "line 2 is not JSON"),
        ("a.jsonl", "", "holds no update"),
        ("a.jsonl", "3\n", "line 1 is no object"),
    ],
)
def test_what_is_no_trace_is_refused(tmp_path, name, text, said):
    path = tmp_path / name
    path.write_text(text)

    with pytest.raises(BadData, match=said):
        RunTrace.read(path)
