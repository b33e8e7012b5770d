import pytest
import torch
from torch import nn
from torch.testing import assert_close

from problem.cases import Recurrent, perceptron
from unstick import Problem

N = 40


def data(n=N):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 4, generator=generator), torch.randint(3, (n,), generator=generator)


def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return perceptron()


def covariance(network, x, y, loss):
    """Trace, and trace by tensor, of the covariance of w g / mean w over samples; one at a time."""
    network = network.double()
    rows, weights = [], []
    for a, b in zip(x.double().split(1), y.split(1), strict=True):
        counted = b != loss.ignore_index
        w = float((torch.ones(3) if loss.weight is None else loss.weight)[b[counted]].sum())
        total = nn.CrossEntropyLoss(
            weight=None if loss.weight is None else loss.weight.double(),
            ignore_index=loss.ignore_index,
            reduction="sum",
        )(network(a), b)
        rows.append([g.flatten() for g in torch.autograd.grad(total, list(network.parameters()))])
        weights.append(w)
    w = torch.tensor(weights).double()
    G = torch.stack([torch.cat(row) for row in rows])
    deviations = (G - w.unsqueeze(1) * G.sum(0) / w.sum()) / w.mean()
    each = deviations.square().sum(0) / (len(x) - 1)
    sizes = [p.numel() for p in network.parameters()]
    named = zip((name for name, _ in network.named_parameters()), each.split(sizes), strict=True)
    return float(each.sum()), {name: float(part.sum()) for name, part in named}


LOSSES = {
    "mean": nn.CrossEntropyLoss(),
    "class weights": nn.CrossEntropyLoss(weight=torch.tensor([0.2, 1.0, 3.0])),
    "ignored": nn.CrossEntropyLoss(ignore_index=2),
}


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("name", LOSSES)
def test_everything_used_is_the_exact_covariance_in_all_and_by_tensor(name, decay):
    x, y = data()
    batches = [(x[:13], y[:13]), (x[13:], y[13:])]
    problem = Problem(model(), batches, LOSSES[name], weight_decay=decay)
    noise = problem.gradient_noise(everything=True)
    trace, traces = covariance(model(), x, y, LOSSES[name])

    assert noise.method == "per-sample"
    assert noise.samples == noise.of_samples == N
    assert noise.standard_error == 0
    assert noise.trace == pytest.approx(trace, rel=1e-6)
    assert noise.traces == pytest.approx(traces, rel=1e-6)
    assert noise.gradient_standard_error() == pytest.approx((trace / N) ** 0.5, rel=1e-6)
    assert noise.gradient_standard_error("0.bias") == pytest.approx((traces["0.bias"] / N) ** 0.5)


@pytest.mark.calibration
def test_a_sample_is_within_its_stated_error():
    x, y = data(3000)
    problem = Problem(model(), (x, y), LOSSES["mean"])
    gradient = problem.gradient()
    exact = problem.gradient_noise(everything=True).trace
    found = [problem.gradient_noise(gradient=gradient, accuracy=0.04, seed=s) for s in range(30)]
    scores = torch.tensor([(f.trace - exact) / f.standard_error for f in found])

    assert all(f.samples < 3000 and f.standard_error <= 0.04 * f.trace for f in found)
    assert scores.abs().max() < 4
    assert 0.5 < scores.square().mean() < 1.6
    assert abs(float(scores.mean())) < 0.6


def test_the_same_seed_draws_the_same_samples():
    problem = Problem(model(), data(3000), LOSSES["mean"])
    first, again, other = (problem.gradient_noise(seed=s) for s in (1, 1, 2))
    assert first == again
    assert first.trace != other.trace


class Unbatchable(nn.Module):
    """A perceptron that asks for a number, which vmap cannot give."""

    def __init__(self):
        super().__init__()
        self.inner = model()

    def forward(self, x):
        return self.inner(x) * (1.0 if x.detach().sum().item() < 1e9 else 2.0)


@pytest.mark.calibration
@pytest.mark.parametrize("name", LOSSES)
def test_small_batches_tell_the_same_where_samples_cannot_be_told_apart(name):
    x, y = data(1600)
    exact = Problem(model(), (x, y), LOSSES[name]).gradient_noise(everything=True)
    problem = Problem(Unbatchable(), (x, y), LOSSES[name])
    found = problem.gradient_noise(everything=True)

    assert found.method == "micro-batches"
    assert found.samples == 1600
    assert abs(found.trace - exact.trace) < 4 * found.standard_error < 0.6 * exact.trace


def test_batch_statistics_make_for_small_batches():
    x, y = data()
    network = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    assert Problem(network, (x, y), LOSSES["mean"]).gradient_noise().method == "per-sample"
    trained = Problem(network, (x, y), LOSSES["mean"], mode="train")
    assert trained.gradient_noise().method == "micro-batches"
    network[1] = nn.BatchNorm1d(5, track_running_stats=False)
    evaluated = Problem(network, (x, y), LOSSES["mean"])
    assert evaluated.gradient_noise().method == "micro-batches"


def test_a_recurrent_model_has_noise_too():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 5, 2, generator=generator)
    noise = Problem(
        Recurrent(), (x, torch.arange(64) % 3), LOSSES["mean"], dtype=torch.float32
    ).gradient_noise()
    assert noise.trace > 0


def test_few_samples_give_a_wide_error_or_none():
    assert Problem(model(), data(1), LOSSES["mean"]).gradient_noise() is None
    for n in (2, 3, 5):
        assert Problem(model(), data(n), LOSSES["mean"]).gradient_noise(everything=True).trace > 0
        noise = Problem(Unbatchable(), data(n), LOSSES["mean"]).gradient_noise()
        assert noise is None or (noise.standard_error > 0 and noise.trace > 0)


def test_without_samples_there_is_no_noise():
    assert Problem.from_function(lambda x: x.sum(), torch.ones(2)).gradient_noise() is None


def test_a_part_has_its_part_of_the_noise():
    problem = Problem(model(), data(), LOSSES["mean"])
    whole = problem.gradient_noise(everything=True)
    part = problem.restrict("0.*").gradient_noise(everything=True)
    assert_close(part.trace, whole.traces["0.weight"] + whole.traces["0.bias"])
