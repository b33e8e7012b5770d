"""Steps of LARS and LAMB, against NumPy written from the papers' formulas, and what all that move lists of tensors share."""

import io

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from training.cases import RATES, UPDATES, agree, moved, set_gradients, slopes, start
from unstick.errors import BadModel, BadRecipe
from unstick.training.layerwise import LAMB, LARS
from unstick.training.rmsprop_warmup import RMSpropWarmUp

TENSOR_WISE = [LARS, LAMB, RMSpropWarmUp]


def lars(*, momentum, decay, trust, inside, skip=False):
    ends = []
    for k, w in enumerate(start()):
        v = np.zeros_like(w)
        for rate, gradients in zip(RATES, slopes(), strict=True):
            g = gradients[k]
            if skip and w.ndim <= 1:
                step = g
            else:
                weight, slope = np.sqrt((w**2).sum()), np.sqrt((g**2).sum())
                below = slope + decay * weight
                step = (trust * weight / below if weight * below > 0 else 1.0) * (g + decay * w)
            v = momentum * v + (rate if inside else 1.0) * step
            w = w - (1.0 if inside else rate) * v
        ends.append(w)
    return ends


def lamb(*, betas=(0.9, 0.999), eps=1e-6, decay=0.01, clamp=None, corrected=True, rates=RATES):
    ends = []
    for k, x in enumerate(start()):
        m = v = np.zeros_like(x)
        for t, (rate, gradients) in enumerate(zip(rates, slopes(), strict=True), start=1):
            g = gradients[k]
            m = betas[0] * m + (1 - betas[0]) * g
            v = betas[1] * v + (1 - betas[1]) * g**2
            first, second = (1 - betas[0] ** t, 1 - betas[1] ** t) if corrected else (1, 1)
            step = (m / first) / (np.sqrt(v / second) + eps) + decay * x
            weight, length = np.sqrt((x**2).sum()), np.sqrt((step**2).sum())
            if clamp:
                weight = min(max(weight, clamp[0]), clamp[1])
            x = x - rate * (weight / length if weight * length > 0 else 1.0) * step
        ends.append(x)
    return ends


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_lars_takes_the_paper_s_steps(decay, inside, skip):
    given = {"momentum": 0.8, "trust": 0.02}
    parameters = moved(LARS, weight_decay=decay, lr_in_momentum=inside, skip_vectors=skip, **given)

    agree(parameters, lars(decay=decay, inside=inside, skip=skip, **given))


def test_the_place_of_the_learning_rate_matters_only_once_it_changes():
    constant = [0.3] * UPDATES
    inside, outside = moved(LARS, rates=constant), moved(LARS, rates=constant, lr_in_momentum=False)
    agree(inside, [w.detach().numpy() for w in outside])

    ends = []
    for within in (True, False):
        x = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        optimizer = LARS([x], 1.0, momentum=0.9, lr_in_momentum=within, skip_vectors=True)
        for update in range(10):
            optimizer.param_groups[0]["lr"] = 1.0 if update < 5 else 0.1
            x.grad = torch.ones_like(x)
            optimizer.step()
        ends.append(round(x.item(), 2))
    assert ends == [-29.55, -15.97]


def test_lars_does_not_see_the_scale_of_a_gradient():
    ends = []
    for scale in (1.0, 1e6):
        w = nn.Parameter(torch.tensor(start()[0]))
        optimizer = LARS([w], 1.0, trust=0.1, weight_decay=0.0)
        for gradients in slopes():
            w.grad = scale * torch.tensor(gradients[0])
            optimizer.step()
        ends.append(w.detach())

    assert_close(ends[0], ends[1], rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "settings",
    [{}, {"clamp": (0.0, 1.0)}, {"clamp": (0.5, 10.0)}, {"bias_correction": False}, {"weight_decay": 0.0}],
    ids=str,
)  # fmt: skip
def test_lamb_takes_the_paper_s_steps(settings):
    names = {"clamp": "clamp", "bias_correction": "corrected", "weight_decay": "decay"}

    agree(moved(LAMB, **settings), lamb(**{names[name]: x for name, x in settings.items()}))


def test_a_lamb_step_is_as_long_as_the_tensor_times_the_learning_rate():
    w = nn.Parameter(torch.tensor(start()[0]))
    optimizer = LAMB([w], 0.01)
    for gradients in slopes():
        before = w.detach().clone()
        w.grad = torch.tensor(gradients[0])
        optimizer.step()
        assert_close((w.detach() - before).norm(), 0.01 * before.norm(), rtol=1e-9, atol=0)


def test_vectors_that_are_skipped_take_the_steps_of_adam_and_matrices_do_not():
    ours = moved(LAMB, rates=[0.1] * UPDATES, skip_vectors=True)
    theirs = [nn.Parameter(torch.tensor(w)) for w in start()]
    adam = torch.optim.Adam(theirs, lr=0.1, eps=1e-6)
    for gradients in slopes():
        set_gradients(theirs, gradients)
        adam.step()

    matrix, vectors = 0, (1, 2)
    agree([ours[k] for k in vectors], [theirs[k].detach().numpy() for k in vectors])
    agree([ours[matrix]], [lamb(rates=[0.1] * UPDATES)[matrix]])


def test_a_parameter_whose_gradients_come_later_counts_its_own_updates():
    early, late, alone = (nn.Parameter(torch.tensor(start()[0])) for _ in range(3))
    both, single = LAMB([early, late], 0.1), LAMB([alone], 0.1)
    for update, gradients in enumerate(slopes()):
        early.grad = torch.tensor(gradients[0])
        late.grad = alone.grad = torch.tensor(gradients[0]) if update >= 3 else None
        both.step()
        single.step()

    assert torch.equal(late, alone)
    assert not torch.equal(late, early)


@pytest.mark.parametrize("kind", TENSOR_WISE)
def test_a_state_that_was_saved_and_loaded_goes_on_bit_for_bit(kind):
    parameters = [nn.Parameter(torch.tensor(w)) for w in start()]
    optimizer = kind(parameters, 0.1)
    for update, gradients in enumerate(slopes()):
        if kind is RMSpropWarmUp and update < 4:
            optimizer.set_epoch(7 + update / 2)
        if update == 4:
            stored = io.BytesIO()
            torch.save(optimizer.state_dict(), stored)
            others = [nn.Parameter(w.detach().clone()) for w in parameters]
            other = kind(others, 0.7)
            stored.seek(0)
            other.load_state_dict(torch.load(stored, weights_only=True))
        set_gradients(parameters, gradients)
        optimizer.step()
        if update >= 4:
            set_gradients(others, gradients)
            other.step()

    assert all(torch.equal(a, b) for a, b in zip(parameters, others, strict=True))


@pytest.mark.parametrize("kind", TENSOR_WISE)
def test_a_sparse_gradient_is_refused_before_anything_moves(kind):
    dense, table = nn.Parameter(torch.ones(2)), nn.Embedding(3, 2, sparse=True)
    before = table.weight.detach().clone()
    optimizer = kind([{"params": [dense]}, {"params": table.parameters()}], 0.1)
    (dense.sum() + table(torch.tensor([1])).sum()).backward()

    with pytest.raises(BadModel, match=r"\[3, 2\] has a sparse gradient"):
        optimizer.step()
    assert torch.equal(dense, torch.ones(2))
    assert torch.equal(table.weight, before)


@pytest.mark.parametrize("kind", TENSOR_WISE)
def test_a_closure_computes_the_gradients_and_its_loss_comes_back(kind):
    w, unused = nn.Parameter(torch.full((2, 2), 2.0)), nn.Parameter(torch.ones(2))
    optimizer = kind([w, unused], 0.1)

    def closure():
        optimizer.zero_grad()
        loss = (w**2).sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 16.0
    assert float((w.detach() ** 2).sum()) < 16.0
    assert torch.equal(unused, torch.ones(2))
    assert optimizer.step() is None


@pytest.mark.parametrize("kind", TENSOR_WISE)
def test_torch_s_schedules_set_the_learning_rate_of_each_group(kind):
    a, b = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = kind([{"params": [a]}, {"params": [b], "lr": 0.0}], 0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    a.grad, b.grad = torch.ones(2, 2), torch.ones(2, 2)
    optimizer.step()
    schedule.step()

    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.0]
    assert not torch.equal(a, torch.ones(2, 2))
    assert torch.equal(b, torch.ones(2, 2))


@pytest.mark.parametrize("kind", TENSOR_WISE)
def test_parameters_of_several_types_move_as_if_each_were_alone(kind):
    ends = []
    for together in (True, False):
        wide, narrow = (
            nn.Parameter(torch.tensor(start()[0]).to(dtype))
            for dtype in (torch.float64, torch.float32)
        )
        optimizers = (
            [kind([wide, narrow], 0.1)] if together else [kind([p], 0.1) for p in (wide, narrow)]
        )
        for gradients in slopes():
            for p in (wide, narrow):
                p.grad = torch.tensor(gradients[0]).to(p.dtype)
            for optimizer in optimizers:
                optimizer.step()
        ends.append((wide, narrow))

    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


@pytest.mark.parametrize(
    ("kind", "settings", "told"),
    [
        (LARS, {"lr": -0.1}, "lr is -0.1"),
        (LARS, {"lr": 0.1, "momentum": 1.0}, "momentum is 1.0"),
        (LARS, {"lr": 0.1, "trust": float("nan")}, "trust is nan"),
        (LAMB, {"lr": 0.1, "betas": (0.9, 1.0)}, r"betas\[1\] is 1.0"),
        (LAMB, {"lr": 0.1, "eps": 0.0}, "eps is 0.0"),
        (LAMB, {"lr": 0.1, "clamp": (2.0, 1.0)}, r"clamp is \(2.0, 1.0\)"),
    ],
)
def test_settings_out_of_range_are_refused(kind, settings, told):
    with pytest.raises(BadRecipe, match=told):
        kind([nn.Parameter(torch.ones(2))], **settings)
