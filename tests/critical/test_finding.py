"""The finder ends at critical points that algebra knows, names those that are none, and goes on where it was cut off."""

import json
import math

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.autograd.functional import hessian
from torch.testing import assert_close

import references
from cases import autoencoder, autoencoder_inertia, frye, network, toy, train
from unstick.critical import searching, steps
from unstick.critical.finding import METHODS, find_critical_point, find_critical_points
from unstick.critical.starts import starts_around
from unstick.errors import BadData, BadModel, Unreadable
from unstick.problem.problem import Problem

WALKERS = METHODS[1:]


def quartic(x, y=0.1):
    return Problem.from_function(frye, torch.tensor([x, y], dtype=torch.float64))


@pytest.mark.parametrize("method", WALKERS)
def test_the_quartic_is_gradient_flat_at_the_root_of_2_and_critical_at_minus_3(method):
    flat = find_critical_point(quartic(2**0.5 + 0.01), method=method)
    minimum = find_critical_point(quartic(-2.9), method=method)

    assert (flat.outcome, flat.ended, flat.method) == ("gradient-flat", "stalled", method)
    assert abs(float(flat.parameters[0]) - 2**0.5) < 0.02
    assert flat.gradient_norm_squared == pytest.approx((9 - 4 * 2**0.5) ** 2, rel=0.1)
    assert flat.point.kind == "not-critical"
    assert (minimum.outcome, minimum.ended, minimum.point.kind) == (
        "critical",
        "converged",
        "minimum",
    )
    assert_close(minimum.parameters, torch.tensor([-3.0, 0.0]).double(), rtol=0, atol=1e-12)
    assert (minimum.inertia, minimum.minimum_ratio, minimum.note) == ((2, 0, 0), 1.0, "")


@pytest.mark.parametrize(
    ("method", "kept"),
    [
        ("newton-mr", (0,)),
        ("newton-mr", (3, 5)),
        ("newton-mr", (6, 7)),
        ("levenberg-marquardt", ()),
        ("levenberg-marquardt", (7,)),
        ("levenberg-marquardt", (0, 1)),
    ],
    ids=str,
)
def test_beside_a_saddle_of_the_autoencoder_that_saddle_is_found_with_its_inertia(kept, method):
    model, inputs, variances = autoencoder(kept)
    problem = Problem(model, (inputs, inputs), nn.MSELoss())

    [found] = find_critical_points(
        problem, starts_around(problem, count=1, scale=1e-2, seed=1), method=method
    ).founds

    assert (found.outcome, found.ended) == ("critical", "converged")
    assert found.gradient_norm_squared < 1e-28
    assert found.start_gradient_norm_squared > 1e-6
    assert found.inertia == autoencoder_inertia(kept)
    assert found.loss == pytest.approx(
        float(variances.sum() - variances[list(kept)].sum()) / 8, rel=1e-12
    )


def test_gradient_descent_on_the_autoencoder_ends_at_the_global_minimum_and_the_finder_says_so():
    for seed in range(3):
        model, inputs, _ = autoencoder((), size=5)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for parameter in model.parameters():
                nn.init.normal_(parameter, std=0.3)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        train(model, optimizer, inputs, inputs, updates=600, loss=nn.MSELoss())

        [found] = find_critical_points(
            Problem(model, (inputs, inputs), nn.MSELoss()),
            torch.cat([p.detach().reshape(-1) for p in model.parameters()])[None],
        ).founds

        assert found.outcome == "critical"
        assert found.inertia == autoencoder_inertia((3, 4), size=5)
        assert found.loss == pytest.approx((1 + 2 + 3) / 5, rel=1e-10)


def pictures():
    digits = load_digits()
    images = torch.tensor(digits.images[:120]).reshape(-1, 4, 2, 4, 2).mean((2, 4)).flatten(1)
    inputs = (images - images.mean(0)) / images.std(0).clamp_min(1e-8)
    return inputs, torch.tensor(digits.target[:120])


def penalized(model, theta, inputs, targets, decay):
    named = dict(model.named_parameters())
    pieces = theta.split([p.numel() for p in named.values()])
    parts = {name: p.view_as(named[name]) for name, p in zip(named, pieces, strict=True)}
    outputs = torch.func.functional_call(model, parts, (inputs,))
    return nn.functional.cross_entropy(outputs, targets) + 0.5 * decay * theta @ theta


def test_long_training_with_a_penalty_ends_at_a_strict_minimum_and_a_short_one_beside_a_saddle():
    model, (inputs, targets) = network(16, 2, 10).double(), pictures()
    start = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    optimizer = torch.optim.Adam(model.parameters(), 0.02, weight_decay=0.03)
    train(model, optimizer, inputs, targets, updates=800)
    problem = Problem(model, (inputs, targets), nn.CrossEntropyLoss(), weight_decay=0.03)

    search = find_critical_points(problem, torch.stack([start, problem.parameters()]))

    saddle, minimum = search.founds
    assert search.counts == {"critical": 2, "gradient-flat": 0, "neither": 0}
    assert saddle.inertia[2] > 0
    assert saddle.loss > minimum.loss
    assert minimum.inertia == (problem.n, 0, 0)
    assert search.minimum_ratios.tolist() == [saddle.inertia[0] / problem.n, 1.0]
    for found in search.founds:
        H = hessian(lambda theta: penalized(model, theta, inputs, targets, 0.03), found.parameters)
        assert found.inertia == references.inertia(H, 1e-9)


def test_a_small_gradient_in_the_kernel_is_not_critical_at_a_loose_cutoff():
    """The near miss: ‖g‖² is 1e-12, and every step along it finds the same slope again."""
    start = torch.tensor([0.3, 0.2], dtype=torch.float64)
    slide = Problem.from_function(
        lambda x: 40 + 1e-6 * torch.sin(x[0]) + x[1] ** 2, torch.tensor([0.0, 0.2]).double()
    )
    bowl = Problem.from_function(lambda x: x[0] ** 2 + x[1] ** 2, start)

    merely_flat = find_critical_point(slide, cutoff=1e-10)
    stopped = find_critical_point(bowl, cutoff=1.0, steps=1)

    assert merely_flat.gradient_norm_squared == pytest.approx(1e-12)
    assert merely_flat.outcome == "gradient-flat"
    assert "classify says degenerate" in merely_flat.note
    assert stopped.rounding < stopped.gradient_norm_squared < 1.0
    assert (stopped.outcome, stopped.ended) == ("critical", "steps")
    assert "classify says not-critical" in stopped.note


def test_the_cutoff_is_as_fine_as_the_arithmetic():
    for dtype, most in ((torch.float64, 1e-22), (torch.float32, 1e-5)):
        start = torch.tensor([-2.9, 0.1], dtype=dtype)
        found = find_critical_point(Problem.from_function(frye, start, dtype=dtype))

        assert found.outcome == "critical"
        assert found.gradient_norm_squared <= found.cutoff == found.rounding < most
        assert found.parameters.dtype == dtype


@pytest.mark.parametrize("method", WALKERS)
def test_every_accepted_step_lowers_the_norm_and_its_loss_is_the_functions(method):
    found = find_critical_point(quartic(-1.0, 0.7), method=method)

    squares = found.squares.tolist()
    assert squares == sorted(squares, reverse=True)
    assert len(found.losses) == len(squares) > 3
    assert (found.start_loss, found.start_gradient_norm_squared) == (
        pytest.approx(float(frye(torch.tensor([-1.0, 0.7]).double()))),
        squares[0],
    )
    assert float(found.losses[-1]) == pytest.approx(float(frye(found.parameters)))


def test_a_nearly_singular_hessian_does_not_blow_newton_up():
    start = torch.tensor([1.0, 1e-7], dtype=torch.float64)
    problem = Problem.from_function(lambda x: x[0] ** 2 + torch.cos(x[1]) + 1e-9 * x[1], start)

    found = find_critical_point(problem, method="newton-mr", steps=30)

    assert float(found.parameters.norm()) < 1e3
    assert bool((found.squares.diff() <= 0).all())


def test_the_model_is_left_alone_unless_told_otherwise():
    model = network(16, 2, 10)
    problem = Problem(model, pictures(), nn.CrossEntropyLoss(), weight_decay=0.05)
    before = [p.detach().clone() for p in model.parameters()]
    random = torch.get_rng_state()

    found = find_critical_point(problem, steps=5)
    unmoved = [torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True)]
    find_critical_point(problem, steps=5, apply=True)

    assert all(unmoved)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert found.parameters.dtype == torch.float64
    assert_close(problem.parameters(), found.parameters, rtol=1e-6, atol=1e-6)


def test_only_the_parameters_asked_for_move():
    model = network(16, 2, 10).double()
    block = Problem(model, pictures(), nn.CrossEntropyLoss(), weight_decay=0.05).restrict("2.*")

    found = find_critical_point(block)

    assert found.parameters.shape == (30,)
    assert found.inertia == (30, 0, 0)  # a convex problem


def test_budget_and_steps_end_a_walk_and_are_named():
    problem = quartic(1.0, 0.7)
    for method in WALKERS:
        assert find_critical_point(problem, method=method, steps=1).ended == "steps"
        assert find_critical_point(problem, method=method, budget=1e-9).ended in ("budget", "steps")
    search = find_critical_points(problem, torch.randn(3, 2).double(), budget=1e-9)
    assert search.outcome == "budget"


@pytest.mark.parametrize("method", ["newton-mr", "levenberg-marquardt"])
def test_an_interruption_gives_what_is_done(method, monkeypatch):
    take, taken = steps.Walk.take, []

    def interrupted(self, *arguments):
        taken.append(self)
        if len(taken) > 4:
            raise KeyboardInterrupt
        take(self, *arguments)

    monkeypatch.setattr(steps.Walk, "take", interrupted)
    found = find_critical_point(quartic(-1.0, 0.7), method=method)

    assert (found.ended, found.point) == ("interrupted", None)
    assert found.gradient_norm_squared < found.start_gradient_norm_squared
    assert len(found.squares) == 5

    search = find_critical_points(quartic(-1.0, 0.7), torch.ones(2, 2).double(), method=method)
    assert search.outcome == "interrupted"


STARTS = torch.tensor([[-2.5, 0.1], [1.41, 0.05], [-4.0, 0.3]], dtype=torch.float64)


def same(one, other):
    return all(
        torch.equal(a.parameters, b.parameters)
        and torch.equal(a.squares, b.squares)
        and str(a) == str(b)
        for a, b in zip(one.founds, other.founds, strict=True)
    )


def test_a_search_goes_on_from_its_store_and_drops_a_torn_line(tmp_path, monkeypatch):
    store, problem = tmp_path / "search.jsonl", quartic(0.0)
    whole = find_critical_points(problem, STARTS, store=store)
    lines = store.read_bytes().splitlines(keepends=True)
    assert (len(lines), whole.resumed) == (4, 0)

    store.write_bytes(b"".join(lines[:2]) + lines[2][:50])
    judged, count = searching.Task.judged, []
    monkeypatch.setattr(
        searching.Task, "judged", lambda self, walk: count.append(1) or judged(self, walk)
    )
    resumed = find_critical_points(problem, STARTS, store=store)
    read = find_critical_points(problem, STARTS, store=store)

    assert (len(count), resumed.resumed, read.resumed) == (2, 1, 3)
    assert len(store.read_bytes().splitlines()) == 4
    assert same(resumed, read)  # to the last bit, costs too
    assert torch.equal(whole.founds[0].parameters, read.founds[0].parameters)
    for one, other in zip(whole.founds, read.founds, strict=True):
        assert_close(one.parameters, other.parameters, rtol=0, atol=1e-6)
    assert [f.outcome for f in resumed.founds] == ["critical", "gradient-flat", "critical"]


def test_a_store_whose_header_a_kill_tore_starts_again(tmp_path):
    store, problem = tmp_path / "search.jsonl", quartic(0.0)
    find_critical_points(problem, STARTS[:1], store=store)
    store.write_bytes(store.read_bytes()[:30])

    assert find_critical_points(problem, STARTS[:1], store=store).resumed == 0
    assert json.loads(store.read_text().splitlines()[1])["start"] == 0


def test_a_store_of_another_search_is_refused_and_kept(tmp_path):
    store, problem = tmp_path / "search.jsonl", quartic(0.0)
    find_critical_points(problem, STARTS, store=store)
    before = store.read_bytes()
    others = [
        (problem, STARTS + 1e-9, {}),
        (problem, STARTS, {"steps": 7}),
        (problem, STARTS, {"cutoff": 1e-8}),
        (Problem.from_function(lambda x: 2 * frye(x), torch.zeros(2)), STARTS, {}),
    ]
    for other, starts, settings in others:
        with pytest.raises(Unreadable, match="another search"):
            find_critical_points(other, starts, store=store, **settings)
    assert store.read_bytes() == before

    notes = tmp_path / "notes.txt"
    notes.write_text("not a store\n")
    with pytest.raises(Unreadable, match="not a JSON object"):
        find_critical_points(problem, STARTS, store=notes)
    with pytest.raises(Unreadable, match="cannot be used"):
        find_critical_points(problem, STARTS, store=tmp_path)
    assert notes.read_text() == "not a store\n"


def test_many_starts_end_where_one_alone_does():
    problem = quartic(0.0)
    together = find_critical_points(problem, STARTS, points=True).founds

    for start, found in zip(STARTS, together, strict=True):
        alone = find_critical_point(problem, start=start)
        assert (alone.outcome, alone.inertia) == (found.outcome, found.inertia)
        assert alone.point.kind == found.point.kind
        assert_close(alone.parameters, found.parameters, rtol=0, atol=1e-6)


def test_auto_takes_dense_hessians_where_they_are_cheap(monkeypatch):
    assert find_critical_point(quartic(-2.9)).method == "levenberg-marquardt"
    monkeypatch.setattr(searching, "EXACT", 1)
    assert find_critical_point(quartic(-2.9)).method == "newton-mr"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"start": torch.zeros(3)}, BadData, r"expected \[m, 2\]"),
        ({"start": torch.zeros(1, 2)}, BadData, r"expected \[2\]"),
        ({"start": torch.tensor([0.0, math.nan])}, BadData, "inf or nan"),
        ({"method": "newton"}, BadModel, "expected one of auto"),
        ({"cutoff": -1.0}, BadData, "cutoff is -1"),
        ({"steps": 0}, BadData, "steps is 0"),
        ({"budget": 0.0}, BadData, "budget is 0"),
    ],
)
def test_what_cannot_be_searched_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        find_critical_point(quartic(0.0), **arguments)


def test_a_model_that_cannot_be_copied_is_refused_in_one_line():
    class Stubborn(nn.Linear):
        def __deepcopy__(self, memo):
            raise RuntimeError("no copies")

    problem = Problem(Stubborn(2, 1), (torch.ones(3, 2), torch.ones(3, 1)), nn.MSELoss())

    with pytest.raises(BadModel, match="no copies"):
        find_critical_point(problem)


def test_the_records_tell_their_story():
    found = find_critical_point(Problem.from_function(toy, torch.tensor([0.2, -0.1])))
    search = find_critical_points(quartic(0.0), STARTS)

    assert str(found).startswith("A critical point, by its curvature: saddle")
    assert "1 positive, 0 zero, 1 negative" in str(found)
    assert found.morse_index == 0.5
    assert str(search).startswith("Of 3 starts: 2 critical, 1 gradient-flat, 0 neither.")
    assert search.losses.tolist() == [found.loss for found in search.founds]
