"""RMSprop that turns into SGD, against NumPy written from the paper's formulas."""

from itertools import pairwise
from math import exp

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from training.cases import RATES, UPDATES, agree, moved, set_gradients, slopes, start
from unstick.errors import BadRecipe
from unstick.training.rmsprop_warmup import RMSpropWarmUp, sgd_share

EPOCHS = [0.0, 8.0, 10.0, 11.0, 12.4, 12.5, 30.0]


def warm_up(*, momentum, smoothing, eps, slow, decay):
    ends = []
    for k, w in enumerate(start()):
        m = d = np.zeros_like(w)
        for rate, epoch, gradients in zip(RATES, EPOCHS, slopes(), strict=True):
            g = gradients[k] + decay * w
            sgd = 0.5 * exp(2 * (epoch - 10) / 5) if epoch < 10 else 0.5 + (epoch - 10) / 5
            sgd = min(sgd, 1.0)
            m = smoothing * m + (1 - smoothing) * g**2
            d = momentum * d - (sgd + (1 - sgd) * slow / rate / (np.sqrt(m) + eps)) * g
            w = w + rate * d
        ends.append(w)
    return ends


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_rmsprop_warm_up_takes_the_paper_s_steps(decay):
    given = {"momentum": 0.8, "smoothing": 0.95, "eps": 1e-6}
    parameters = moved(RMSpropWarmUp, epochs=EPOCHS, lr_rmsprop=0.02, weight_decay=decay, **given)

    agree(parameters, warm_up(slow=0.02, decay=decay, **given))


def test_after_the_warm_up_the_steps_are_those_of_momentum_sgd():
    ours = moved(RMSpropWarmUp, rates=[0.1] * UPDATES, epochs=[12.5] * UPDATES)
    theirs = [nn.Parameter(torch.tensor(w)) for w in start()]
    sgd = torch.optim.SGD(theirs, lr=0.1, momentum=0.9)
    for gradients in slopes():
        set_gradients(theirs, gradients)
        sgd.step()

    agree(ours, [w.detach().numpy() for w in theirs])


@pytest.mark.parametrize(("center", "period"), [(10.0, 5.0), (3.0, 0.5)])
def test_the_share_of_sgd_rises_smoothly_to_one_and_never_beyond(center, period):
    shares = [sgd_share(e / 100, center=center, period=period) for e in range(2000)]

    assert all(a <= b for a, b in pairwise(shares))
    assert max(shares) == 1.0
    assert sgd_share(center, center=center, period=period) == 0.5
    assert sgd_share(center + period / 2, center=center, period=period) == 1.0
    h = 1e-6 * period
    before, at, after = (sgd_share(center + d, center=center, period=period) for d in (-h, 0, h))
    assert_close((after - at) / h, (at - before) / h, rtol=1e-5, atol=0)  # 1/period from both sides
    nearly = sgd_share(center + period / 2 - h, center=center, period=period)
    assert_close(nearly, 1.0, rtol=2e-6, atol=0)  # a slope of 2/period would have reached 1.5 here


def test_an_update_at_learning_rate_zero_leaves_no_trace():
    first = nn.Parameter(torch.tensor(start()[0]))
    second = nn.Parameter(torch.tensor(start()[0]))
    for w, rates in ((first, [0.0, 0.1, 0.1]), (second, [0.1, 0.1])):
        optimizer = RMSpropWarmUp([w], 0.1)
        for rate in rates:
            optimizer.param_groups[0]["lr"] = rate
            w.grad = torch.tensor(slopes()[0][0])
            optimizer.step()

    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"lr": float("inf")}, "lr is inf"),
        ({"lr": 0.1, "eps": 0.0}, "eps is 0.0"),
        ({"lr": 0.1, "smoothing": 1.0}, "smoothing is 1.0"),
        ({"lr": 0.1, "period": 0.0}, "period is 0.0"),
        ({"lr": 0.1, "center": float("nan")}, "center is nan"),
    ],
)
def test_settings_out_of_range_are_refused(settings, told):
    with pytest.raises(BadRecipe, match=told):
        RMSpropWarmUp([nn.Parameter(torch.ones(2))], **settings)


def test_an_epoch_that_is_none_is_refused_and_the_old_one_stays():
    optimizer = RMSpropWarmUp([nn.Parameter(torch.ones(2))], 0.1)
    optimizer.set_epoch(3)
    with pytest.raises(BadRecipe, match="epoch is -1"):
        optimizer.set_epoch(-1)

    assert optimizer.param_groups[0]["epoch"] == 3.0
