"""The line between two checkpoints ends at their own losses, whatever becomes of their statistics."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from unstick.errors import BadCheckpoint, BadData
from unstick.landscape.interpolation import interpolate
from unstick.problem.problem import Problem


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def data(seed=0):
    inputs = 2 + 3 * torch.randn(40, 3, generator=rng(seed), dtype=torch.float64)
    return inputs, (inputs[:, 0] > 2).long()


def checkpoint(seed):
    """A network with batch normalization, its own statistics, and a count of batches."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng(seed)))
    model[1].running_mean.copy_(torch.randn(4, generator=rng(seed + 10)))
    model[1].running_var.copy_(torch.rand(4, generator=rng(seed + 20)) + 0.5)
    model[1].num_batches_tracked.fill_(seed)
    return model


def problem(model=None, seed=0):
    return Problem(model or checkpoint(7), data(seed), nn.CrossEntropyLoss())


def loss_by_hand(model, statistics=None, seed=0):
    """Cross-entropy in NumPy, with these statistics of the first layer's outputs, or the model's own."""
    inputs, targets = (part.numpy() for part in data(seed))
    named = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    hidden = inputs @ named["0.weight"].T + named["0.bias"]
    mean, var = (named["1.running_mean"], named["1.running_var"])
    if statistics == "of the data":
        mean, var = hidden.mean(0), hidden.var(0, ddof=1)
    hidden = (hidden - mean) / np.sqrt(var + 1e-5) * named["1.weight"] + named["1.bias"]
    outputs = np.tanh(hidden) @ named["3.weight"].T + named["3.bias"]
    logs = outputs - np.log(np.exp(outputs).sum(1, keepdims=True))
    return -logs[np.arange(len(targets)), targets].mean()


def between(one, two, t):
    """The model between two, statistics too."""
    model, ends = deepcopy(one), two.state_dict()
    model.load_state_dict(
        {
            name: (1 - t) * value + t * ends[name] if value.is_floating_point() else value
            for name, value in one.state_dict().items()
        }
    )
    return model


def test_travelling_statistics_give_both_checkpoints_their_own_losses():
    one, two = checkpoint(0), checkpoint(1)
    found = interpolate(problem(), one.state_dict(), two.state_dict(), points=5)
    expected = [loss_by_hand(between(one, two, float(t))) for t in found.fractions]

    np.testing.assert_allclose(found.losses.numpy(), expected, rtol=1e-12)
    assert found.buffers == "travel"
    assert found.fractions.tolist() == [0, 0.25, 0.5, 0.75, 1]
    apart = problem(one).parameters() - problem(two).parameters()
    assert abs(float(found.distances[-1]) - np.linalg.norm(apart.numpy())) < 1e-12


def test_recomputed_statistics_are_those_of_the_data_at_every_point():
    one, two = checkpoint(0), checkpoint(1)
    found = interpolate(
        problem(), one.state_dict(), two.state_dict(), points=3, buffers="recompute"
    )
    expected = [loss_by_hand(between(one, two, t), "of the data") for t in (0.0, 0.5, 1.0)]

    np.testing.assert_allclose(found.losses.numpy(), expected, rtol=1e-12)
    assert "recomputed from the problem's data" in str(found)


def test_a_variance_that_falls_below_zero_past_a_checkpoint_is_said():
    one, two = checkpoint(0), checkpoint(1)
    two[1].running_var.mul_(10)
    ends = one.state_dict(), two.state_dict()
    far = interpolate(problem(), *ends, points=3, beyond=1.0)

    assert far.losses.isnan().tolist() == [True] + [False] * 4  # at −1, 0, ½, 1 and 2
    assert "falls below zero" in far.notes[0]
    assert interpolate(problem(), *ends, points=3).notes == ()
    assert torch.isfinite(
        interpolate(problem(), *ends, points=3, beyond=1.0, buffers="recompute").losses
    ).all()


def test_held_out_losses_use_the_statistics_of_the_problem_and_data_of_their_own():
    one, two, model = checkpoint(0), checkpoint(1), checkpoint(7)
    found = interpolate(
        problem(model),
        one.state_dict(),
        two.state_dict(),
        points=2,
        measures=("accuracy",),
        held_out=problem(model, seed=5),
    )
    expected = [loss_by_hand(end, seed=5) for end in (one, two)]

    np.testing.assert_allclose(found.held_out_losses.numpy(), expected, rtol=1e-12)
    inputs, targets = data(5)
    right = float((one.eval()(inputs).argmax(1) == targets).double().mean())
    assert float(found.held_out_accuracies[0]) == right
    assert (
        abs(found.cost.gradients - (2 * 4 + 1) / 3) < 1e-9
    )  # one more to see that there are classes


@pytest.mark.parametrize("buffers", ["travel", "recompute", "keep"])
def test_the_model_keeps_parameters_buffers_mode_and_gradients(buffers):
    model = checkpoint(7).train()
    ours, ends = problem(model), [checkpoint(seed).state_dict() for seed in (0, 1)]
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before, pointers = deepcopy(model.state_dict()), [b.data_ptr() for b in model.buffers()]
    momentum, state = model[1].momentum, torch.get_rng_state()

    interpolate(ours, *ends, points=3, buffers=buffers)

    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert pointers == [buffer.data_ptr() for buffer in model.buffers()]
    assert model.training
    assert model[1].training
    assert model[1].momentum == momentum
    assert bool((model[0].weight.grad == 1).all())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_whole_number_comes_from_the_nearer_checkpoint_and_others_travel():
    class Counting(nn.Module):
        def __init__(self, count, shift):
            super().__init__()
            self.x = nn.Parameter(torch.tensor([float(count)], dtype=torch.float64))
            self.register_buffer("count", torch.tensor(count))
            self.register_buffer("shift", torch.tensor(shift, dtype=torch.float64))

        def forward(self):
            return 0 * self.x.sum() + self.count + self.shift

    ours = Problem(Counting(3, 0.0), [()], batch_loss=lambda net, _: net())
    ends = [Counting(*given).state_dict() for given in ((10, 0.0), (20, 0.5))]
    found = interpolate(ours, *ends, points=5)

    assert found.losses.tolist() == [10, 10.125, 10.25, 20.375, 20.5]
    assert interpolate(ours, *ends, points=5, buffers="keep").losses.tolist() == [3.0] * 5


def quartic(x):
    return (x[0] ** 2 - 1) ** 2 + x[0] / 4


def test_a_barrier_is_the_rise_above_the_straight_line_between_both_losses():
    ours = Problem.from_function(quartic, torch.zeros(1, dtype=torch.float64))
    ends = torch.tensor([[-1.0], [1.0]])
    found = interpolate(ours, *ends, points=9, beyond=0.5)

    assert found.barrier == 1.0  # the tilt is taken out
    assert found.barrier_at == 0.5
    assert found.monotone is False
    assert found.fractions.tolist() == [-0.5, -0.25, 0, 0.25, 0.5, 0.75, 1, 1.25, 1.5]
    assert "barrier of 1 " in found.headline()


@pytest.mark.parametrize(("ends", "monotone"), [((1.0, 2.0), True), ((2.0, 1.0), True), ((-1.0, 2.0), False)])  # fmt: skip
def test_a_convex_function_has_no_barrier_and_turns_only_at_its_minimum(ends, monotone):
    ours = Problem.from_function(lambda x: (x**2).sum(), torch.zeros(1, dtype=torch.float64))
    found = interpolate(ours, *torch.tensor(ends)[:, None], points=8, beyond=1)

    assert found.barrier == 0.0
    assert found.monotone is monotone
    assert "no barrier" in found.headline()
    assert {0.0, 1.0} < set(found.fractions.tolist())  # not among the 8, so added
    assert len(found.fractions) == 10


def test_a_wall_between_both_is_an_infinite_barrier_and_a_bad_end_none():
    ours = Problem.from_function(lambda x: 1 / x.abs().sum(), torch.ones(1, dtype=torch.float64))
    wall = interpolate(ours, torch.tensor([-1.0]), torch.tensor([1.0]), points=3)
    end = interpolate(ours, torch.tensor([0.0]), torch.tensor([1.0]), points=3)

    assert wall.losses.tolist() == [1, torch.inf, 1]
    assert wall.barrier == torch.inf
    assert end.barrier is end.monotone is None


def test_an_interruption_leaves_what_is_done_and_the_model():
    def press(_stage, done, _total):
        if done == 3:
            raise KeyboardInterrupt

    model = checkpoint(7)
    before = deepcopy(model.state_dict())
    one, two = checkpoint(0).state_dict(), checkpoint(1).state_dict()
    found = interpolate(problem(model), one, two, points=5, progress=press)

    assert found.outcome == "interrupted"
    assert torch.isfinite(found.losses).tolist() == [True] * 3 + [False] * 2
    assert found.barrier is None
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def without(name):
    return {key: value for key, value in checkpoint(0).state_dict().items() if key != name}


@pytest.mark.parametrize(
    ("first", "more", "error", "message"),
    [
        (without("3.bias"), {}, BadCheckpoint, "3.bias is missing in the first"),
        (without("1.running_var"), {}, BadCheckpoint, "1.running_var is missing"),
        (without("") | {"3.bias": torch.zeros(5)}, {}, BadCheckpoint, r"3.bias is of shape \[5\]"),
        (torch.zeros(3), {}, BadCheckpoint, r"parameters \[34\]"),
        (torch.zeros(34), {"buffers": "travel"}, BadCheckpoint, "has no buffers"),
        (checkpoint(1).state_dict(), {}, BadData, "0.0 apart"),
        (without(""), {"buffers": "mean"}, BadData, "'mean'"),
        (without(""), {"points": 1}, BadData, "points=1"),
        (without(""), {"held_out": problem()}, BadData, "another model"),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(first, more, error, message):
    with pytest.raises(error, match=message) as refusal:
        interpolate(problem(), first, checkpoint(1).state_dict(), **more)
    assert "\n" not in str(refusal.value)


def test_a_frozen_parameter_that_differs_is_refused_and_the_same_one_is_not():
    model = checkpoint(7)
    model[3].requires_grad_(requires_grad=False)
    ours = problem(model)
    with pytest.raises(BadCheckpoint, match=r"3\.weight is not trained"):
        interpolate(ours, checkpoint(0).state_dict(), checkpoint(1).state_dict())
    own = {f"3.{name}": value for name, value in model[3].state_dict().items()}
    ends = [checkpoint(seed).state_dict() | own for seed in (0, 1)]

    assert interpolate(ours, *ends, points=2).outcome == "complete"


def test_statistics_cannot_be_recomputed_where_there_are_none():
    plain = Problem.from_function(quartic, torch.zeros(1))
    with pytest.raises(BadData, match="no batch normalization"):
        interpolate(plain, torch.zeros(1), torch.ones(1), buffers="recompute")

    inputs, targets = data()
    alone = Problem(
        checkpoint(7),
        [(inputs[:1], targets[:1])],
        batch_loss=lambda net, batch: nn.functional.cross_entropy(net(batch[0]), batch[1]),
    )
    with pytest.raises(BadData, match="two samples a batch"):
        interpolate(alone, torch.zeros(34), torch.ones(34), buffers="recompute")
