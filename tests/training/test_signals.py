"""The variance after each layer, against hand computations and the laws of He's and Xavier's starts."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from cases import network
from training.cases import rng
from unstick.errors import BadData, BadModel, NonFinite
from unstick.training.initialization import initialize
from unstick.training.signals import signal_by_layer


@pytest.mark.parametrize(("scheme", "law"), [("he", 1.0), ("xavier", 0.5), ("normal", 0.0256)])
def test_a_relu_layer_multiplies_the_variance_by_1_with_he_and_by_half_with_xavier(scheme, law):
    model = network(*[512] * 9, 10, activation=nn.ReLU)
    initialize(model, scheme, seed=0)  # normal: 512 · 0.01² / 2

    signal = signal_by_layer(model, torch.randn(256, 512, generator=rng()))

    ratios = signal.ratios("ReLU")
    assert len(ratios) == 7
    assert float(np.exp(np.mean(np.log(ratios)))) == pytest.approx(law, rel=0.15)


def test_measured_variances_are_those_of_a_hand_computation():
    model = network(6, 5, 3, activation=nn.ReLU).double()
    X, Y = (torch.randn(20, k, generator=rng(k)).double() for k in (6, 3))

    signal = signal_by_layer(model, X, loss=nn.MSELoss(), targets=Y)

    W1, b1, W2, b2 = (p.detach().numpy() for p in model.parameters())
    z = X.numpy() @ W1.T + b1
    h = np.maximum(z, 0)
    out = h @ W2.T + b2
    back = 2 * (out - Y.numpy()) / out.size
    gradients = [(back @ W2) * (z > 0), back @ W2, back]
    assert [layer.name for layer in signal.layers] == ["0", "1", "2"]
    assert [layer.kind for layer in signal.layers] == ["Linear", "ReLU", "Linear"]
    for layer, value, gradient in zip(signal.layers, (z, h, out), gradients, strict=True):
        assert layer.variance == pytest.approx(value.var(), rel=1e-12)
        assert layer.gradient_variance == pytest.approx(gradient.var(), rel=1e-12)
    assert signal.layers[0].ratio == pytest.approx(z.var() / X.numpy().var(), rel=1e-12)
    assert signal.layers[1].ratio == pytest.approx(h.var() / z.var(), rel=1e-12)
    assert signal.outcome == "finite"
    assert "after 0 (Linear)" in str(signal)


def test_layers_that_work_in_place_are_measured_before_and_after():
    plain = nn.Sequential(nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1)).double()
    hasty = nn.Sequential(nn.ReLU(True), nn.Linear(4, 4), nn.ReLU(True), nn.Linear(4, 1)).double()
    hasty.load_state_dict(plain.state_dict())
    x, y = torch.randn(9, 4, generator=rng()).double(), torch.zeros(9, 1)
    given = x.clone()

    signals = [signal_by_layer(m, x, loss=nn.MSELoss(), targets=y) for m in (plain, hasty)]

    assert signals[0] == signals[1]
    assert torch.equal(x, given)


def test_layers_with_several_outputs_and_whole_numbers_as_inputs_are_measured():
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.lstm = nn.Embedding(9, 8), nn.LSTM(8, 8)
            self.attention, self.head = nn.MultiheadAttention(8, 2), nn.Linear(8, 2)

        def forward(self, tokens):
            x, _ = self.lstm(self.table(tokens))
            return self.head(self.attention(x, x, x)[0])

    tokens = torch.randint(0, 9, (5, 3), generator=rng())
    signal = signal_by_layer(
        Tagger(),
        tokens,
        loss=lambda out, y: (out.sum((0, 2)) - y).square().mean(),
        targets=torch.ones(3),
    )

    assert [layer.name for layer in signal.layers] == ["table", "lstm", "attention", "head"]
    assert signal.layers[0].ratio is None  # of token numbers
    assert all(layer.gradient_variance > 0 for layer in signal.layers[:3])


def test_the_model_is_left_as_it_was_also_after_an_error():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    model[1].eval()
    model[0].weight.requires_grad_(False)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    x, y = torch.randn(8, 4, generator=rng()), torch.zeros(8, 2)

    def state():
        return (
            [m.training for m in model.modules()],
            [len(m._forward_hooks) for m in model.modules()],
            [(id(p), p.tolist(), id(p.grad), p.grad.tolist()) for p in model.parameters()],
            [(id(b), b.tolist()) for b in model.buffers()],
            torch.get_rng_state().tolist(),
        )

    def failing(outputs, targets):
        raise RuntimeError("stop")

    before = state()
    first = signal_by_layer(model, x, loss=nn.MSELoss(), targets=y)
    with pytest.raises(RuntimeError, match="stop"):
        signal_by_layer(model, x, loss=failing, targets=y)
    assert state() == before
    with torch.random.fork_rng():
        torch.manual_seed(99)
        assert signal_by_layer(model, x, loss=nn.MSELoss(), targets=y) == first
    assert signal_by_layer(model, x, seed=1).layers[2] != first.layers[2]  # another dropout


def test_what_a_layer_draws_from_numpy_and_python_is_seeded_too():
    class Noisy(nn.Module):
        def forward(self, x):
            return x * np.random.rand() + random.random()  # noqa: NPY002, S311 - what a user's layer may do

    model, x = nn.Sequential(nn.Linear(4, 4), Noisy()), torch.randn(8, 4, generator=rng())
    python, legacy = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    found = [signal_by_layer(model, x, seed=seed).layers[1].variance for seed in (0, 0, 2**40)]

    assert found[0] == found[1] != found[2]
    assert (random.getstate(), np.random.get_state()[1].tolist()) == (python, legacy)  # noqa: NPY002


def test_training_mode_normalizes_by_the_batch_and_eval_mode_by_the_statistics():
    model = nn.Sequential(nn.BatchNorm1d(4))
    x = 5 * torch.randn(50, 4, generator=rng())

    assert signal_by_layer(model, x).layers[0].variance == pytest.approx(1, rel=1e-3)
    assert signal_by_layer(model, x, training=False).layers[0].ratio == pytest.approx(1, rel=1e-3)


def test_a_signal_that_overflows_is_told_with_the_layer():
    model = network(4, 4, 4, activation=nn.ReLU)
    initialize(model, "constant", value=1e20, seed=0)

    signal = signal_by_layer(model, torch.ones(3, 4))

    assert signal.outcome == "not finite"
    assert signal.headline() == "The signal is not finite from 2 (Linear) on."


def test_unusable_inputs_and_losses_are_refused():
    model = network(4, 3, 2)
    x, y = torch.ones(5, 4), torch.zeros(5, 2)

    with pytest.raises(BadData, match="at least one sample"):
        signal_by_layer(model, torch.empty(0, 4))
    with pytest.raises(NonFinite, match="inputs"):
        signal_by_layer(model, x / 0)
    with pytest.raises(BadData, match="without targets"):
        signal_by_layer(model, x, loss=nn.MSELoss())
    with pytest.raises(BadModel, match=r"the loss is \[5, 2\]"):
        signal_by_layer(model, x, loss=nn.MSELoss(reduction="none"), targets=y)
    with pytest.raises(BadModel, match="no trainable parameter"):
        signal_by_layer(nn.Sequential(nn.ReLU()), x)
