"""A stored grid goes on where it was interrupted, and is that of one go; anything else in its place is refused."""

import pytest
import torch
from torch import nn

from cases import network
from unstick.errors import BadData, Unreadable
from unstick.landscape.plane import scan
from unstick.problem.problem import Problem

X, Y = torch.linspace(-1, 1, 8, dtype=torch.float64), torch.linspace(-2, 2, 6, dtype=torch.float64)
MEASURES = ("loss", "accuracy", "gradient norm")


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def problem(*, shift=0.0, samples=20, loss=None):
    inputs = torch.randn(20, 3, generator=rng(), dtype=torch.float64)[:samples]
    model = network(3, 4, 2).double()
    with torch.no_grad():
        model[0].bias[0] += shift
    return Problem(model, (inputs, (inputs[:, 0] > 0).long()), loss or nn.CrossEntropyLoss())


def direction(n, seed):
    return torch.randn(n, generator=rng(seed), dtype=torch.float64)


def plane(store, ours=None, *, seed=1, x=X, y=Y, measures=MEASURES, progress=None):
    ours = ours or problem()
    first, second = direction(ours.n, seed), direction(ours.n, 9)
    return scan(ours, first, second, x=x, y=y, measures=measures, store=store, progress=progress)


def stopping(after):
    """Presses Ctrl-C when so many rows are done."""

    def press(_stage, done, _total):
        if done >= after:
            raise KeyboardInterrupt

    return press


@pytest.fixture(autouse=True)
def row_by_row(monkeypatch):
    monkeypatch.setattr("unstick.landscape.grid.MOST_POINTS", 2 * len(X))  # two rows at a time


def same(one, other):
    fields = ("losses", "accuracies", "gradient_norms")
    return all(
        torch.equal(getattr(one, name).nan_to_num(-1), getattr(other, name).nan_to_num(-1))
        for name in fields
    )


@pytest.mark.parametrize("across", [8, 40])  # so many that they share what is affine, and fewer
def test_a_resumed_grid_is_that_of_one_go_and_measures_only_what_was_missing(
    tmp_path, monkeypatch, across
):
    monkeypatch.setattr("unstick.landscape.grid.MOST_POINTS", 2 * across)
    x, store = torch.linspace(-1, 1, across, dtype=torch.float64), tmp_path / "plane.jsonl"
    whole = plane(None, x=x)
    first = plane(store, x=x, progress=stopping(4))
    rest = plane(store, x=x)

    assert (first.outcome, rest.outcome) == ("interrupted", "complete")
    assert torch.isfinite(first.losses).all(1).tolist() == [True] * 4 + [False] * 2
    assert first.losses[4:].isnan().all()
    assert torch.equal(first.losses[:4], whole.losses[:4])
    assert same(rest, whole)
    price = across * (1 / 3 + 1 / 3 + 1)  # of a row
    assert abs(rest.cost.gradients - 2 * price - 2 / 3) < 1e-6  # two looks at the model's own point
    assert abs(plane(store, x=x).cost.gradients - 2 / 3) < 1e-6


def test_a_line_torn_by_a_kill_is_dropped_and_measured_again(tmp_path):
    store = tmp_path / "plane.jsonl"
    whole = plane(store)
    text = store.read_bytes()
    for cut in (len(text) - 1, len(text) - 300, text.index(b"\n") + 2, text.index(b"\n"), 10, 0):
        store.write_bytes(text[:cut])
        assert same(plane(store), whole)
        assert store.read_bytes() == text


def test_progress_counts_rows_and_begins_where_the_store_ends(tmp_path):
    told = []
    plane(tmp_path / "p", progress=stopping(2))
    plane(tmp_path / "p", progress=lambda *said: told.append(said))

    assert told == [("plane", 2, 6), ("plane", 4, 6), ("plane", 6, 6)]


def test_an_interruption_before_the_first_row_is_passed_on(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        plane(tmp_path / "p", progress=stopping(0))
    assert plane(tmp_path / "p").outcome == "complete"


def test_losses_that_are_not_finite_come_back_from_the_store(tmp_path):
    def ours():
        return Problem.from_function(
            lambda x: torch.where(x[0] > 0, 1 / (x[0] - 0.5).clamp(min=0), torch.log(x[0] + 0.25)),
            torch.zeros(2),
        )

    at, axes = torch.tensor([-1.0, -0.25, 0.0, 0.25, 1.0]), torch.eye(2)
    one = scan(ours(), *axes, x=at, y=at[:2], store=tmp_path / "p")
    again = scan(ours(), *axes, x=at, y=at[:2], store=tmp_path / "p")

    assert one.losses[0, 0].isnan()
    assert one.losses[0, 1] == -torch.inf
    assert one.losses[0, 3] == torch.inf
    torch.testing.assert_close(again.losses, one.losses, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ours": lambda: problem(shift=1e-12)}, "other parameters;"),
        ({"ours": lambda: problem(samples=19)}, "other data, loss;"),
        ({"ours": lambda: problem(loss=nn.CrossEntropyLoss(label_smoothing=0.1))}, "other loss;"),
        ({"seed": 2}, "other directions;"),
        ({"x": 2 * X}, "other coordinates;"),
        ({"y": Y[:5]}, "other coordinates;"),
        ({"measures": ("loss", "accuracy")}, "other measures;"),
    ],
)
def test_a_store_of_another_scan_is_refused_and_stays(tmp_path, changed, message):
    store = tmp_path / "plane.jsonl"
    plane(store, progress=stopping(2))
    before = store.read_bytes()
    given = {name: value() if callable(value) else value for name, value in changed.items()}

    with pytest.raises(BadData, match=message) as refusal:
        plane(store, **given)
    assert "\n" not in str(refusal.value)
    assert store.read_bytes() == before


@pytest.mark.parametrize("text", ["notes", "notes\n", '{"kind": 1}\n[]\n', "\xff", "[]\n"])
def test_a_file_that_is_no_store_is_refused_and_stays(tmp_path, text):
    store = tmp_path / "mine.txt"
    store.write_bytes(text.encode("latin-1"))

    with pytest.raises(Unreadable, match="another store="):
        plane(store)
    assert store.read_bytes() == text.encode("latin-1")


def test_a_damaged_row_is_named(tmp_path):
    store = tmp_path / "plane.jsonl"
    plane(store)
    lines = store.read_text().splitlines()
    store.write_text("\n".join([*lines[:2], lines[2][:-9], *lines[3:], ""]))

    with pytest.raises(Unreadable, match="line 3 of"):
        plane(store)


def test_a_store_that_cannot_be_made_is_refused_before_the_work(tmp_path):
    ours = problem()
    before = ours.spent
    with pytest.raises(BadData, match="No such file or directory"):
        plane(tmp_path / "nowhere" / "p", ours)
    assert (ours.spent - before).gradients < 1
