"""Small models of every kind that differs in how it can be differentiated, and what their derivatives are."""

import copy
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

ALL = ("kept", "rebuilt", "forward", "difference")
NOT_FORWARD = ("kept", "rebuilt", "difference")


class Tied(nn.Module):
    """The same matrix on the way in and out."""

    def __init__(self):
        super().__init__()
        self.inward, self.outward = nn.Linear(4, 4), nn.Linear(4, 4)
        self.outward.weight = self.inward.weight

    def forward(self, x):
        return self.outward(torch.tanh(self.inward(x)))[:, :3]


class Partly(nn.Module):
    """One frozen layer, one that is never used."""

    def __init__(self):
        super().__init__()
        self.frozen, self.unused, self.last = nn.Linear(4, 4), nn.Linear(2, 2), nn.Linear(4, 3)
        self.frozen.requires_grad_(False)

    def forward(self, x):
        return self.last(torch.tanh(self.frozen(x)))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.last = nn.LSTM(2, 3, batch_first=True), nn.Linear(3, 3)

    def forward(self, x):
        return self.last(self.lstm(x)[0][:, -1])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.three, self.last = nn.Linear(4, 12), nn.Linear(4, 3)

    def forward(self, x):
        q, k, v = self.three(x).unsqueeze(1).chunk(3, -1)
        return self.last(scaled_dot_product_attention(q, k, v).squeeze(1).mean(1))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 5, batch_first=True, activation="gelu")
        self.last = nn.Linear(4, 3)

    def forward(self, x):
        return self.last(self.layer(x).mean(1))


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.reentrant = reentrant

    def forward(self, x):
        x = torch.tanh(self.first(x))
        if torch.is_grad_enabled() and self.reentrant is not None:
            x = checkpoint(lambda y: torch.tanh(self.middle(y)), x, use_reentrant=self.reentrant)
        else:
            x = torch.tanh(self.middle(x))
        return self.last(x)


def perceptron():
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def convolutional():
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(2 * 2 * 2, 3)
    )


def used(model, x):
    """Running statistics as after some training."""
    with torch.no_grad():
        model.train()(x)
    return model.eval()


@dataclass(frozen=True)
class Case:
    name: str
    model: nn.Module
    data: tuple
    loss: nn.Module
    modes: tuple
    mode: str = "eval"

    def __str__(self):
        return self.name


def build(name):
    """A fresh case by name; the same numbers every time."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(hash_of(name))
        return CASES[name](name)


def hash_of(name):
    return sum(map(ord, name))


def _vectors(model, modes=ALL):
    return lambda name: Case(
        name, model(), (torch.randn(12, 4), torch.arange(12) % 3), nn.CrossEntropyLoss(), modes
    )


def _sequences(model, width, modes):
    return lambda name: Case(
        name, model(), (torch.randn(6, 5, width), torch.arange(6) % 3), nn.CrossEntropyLoss(), modes
    )


def _images(mode, modes):
    def make(name):
        x = torch.randn(10, 1, 4, 4)
        return Case(
            name,
            used(convolutional(), x),
            (x, torch.arange(10) % 3),
            nn.CrossEntropyLoss(),
            modes,
            mode,
        )

    return make


def _linear(name):
    class First(nn.Module):
        def forward(self, outputs, targets):
            return (outputs * targets).mean()

    return Case(name, nn.Linear(4, 2), (torch.randn(9, 4), torch.randn(9, 2)), First(), ALL)


CASES = {
    "perceptron": _vectors(perceptron),
    "convolutions, evaluating": _images("eval", ALL),
    "convolutions, training": _images("train", ALL),
    "tied weights": _vectors(Tied),
    "frozen and unused": _vectors(Partly),
    "linear in the parameters": _linear,
    "LSTM": _sequences(Recurrent, 2, ALL),
    "attention": _sequences(Attention, 4, ALL),
    "encoder layer": _sequences(Encoder, 4, ALL),
    "checkpoint": _vectors(lambda: Checkpointed(reentrant=False), NOT_FORWARD),
    "reentrant checkpoint": _vectors(lambda: Checkpointed(reentrant=True), ("difference",)),
    "compiled": _vectors(lambda: torch.compile(perceptron(), backend="eager")),
    "compiled inside": _vectors(
        lambda: nn.Sequential(
            torch.compile(nn.Linear(4, 5), backend="eager"), nn.Tanh(), nn.Linear(5, 3)
        )
    ),
    "bfloat16": _vectors(lambda: perceptron().bfloat16()),
}


class Reference:
    """The naive loss over all data in float64, through torch's own dense derivatives."""

    def __init__(self, model, data, loss, *, mode="eval"):
        model = getattr(model, "_orig_mod", model)
        self.model = copy.deepcopy(model).double().train(mode == "train")
        for module in self.model.modules():
            if isinstance(module, Checkpointed):
                module.reentrant = None
        self.data = [x.double() if x.is_floating_point() else x for x in data]
        self.loss = copy.deepcopy(loss).double()
        self.names = [k for k, p in self.model.named_parameters() if p.requires_grad]
        named = dict(self.model.named_parameters())
        self.shapes = [named[k].shape for k in self.names]
        self.theta = torch.cat([named[k].detach().reshape(-1) for k in self.names])
        self.buffers = {k: b.clone() for k, b in self.model.named_buffers()}

    def __call__(self, theta):
        pieces = theta.split([shape.numel() for shape in self.shapes])
        named = {k: p.reshape(s) for k, p, s in zip(self.names, pieces, self.shapes, strict=True)}
        named |= {k: b.clone() for k, b in self.buffers.items()}
        with sdpa_kernel(SDPBackend.MATH):
            return self.loss(functional_call(self.model, named, (self.data[0],)), self.data[1])

    def gradient(self, theta=None):
        theta = (self.theta if theta is None else theta).clone().requires_grad_()
        with sdpa_kernel(SDPBackend.MATH):
            return torch.autograd.grad(self(theta), theta)[0]

    def hessian(self):
        with sdpa_kernel(SDPBackend.MATH):
            return torch.autograd.functional.hessian(self, self.theta)

    def slopes(self, step=1e-5):
        """The gradient by differences of values, in NumPy."""
        found = np.empty(len(self.theta))
        with torch.no_grad():
            for i in range(len(self.theta)):
                shift = torch.zeros_like(self.theta)
                shift[i] = step
                found[i] = (self(self.theta + shift) - self(self.theta - shift)) / (2 * step)
        return torch.from_numpy(found)


def reference(case):
    if case.name == "compiled inside":
        inner = nn.Sequential(case.model[0]._orig_mod, *case.model[1:])
        return Reference(inner, case.data, case.loss)
    return Reference(case.model, case.data, case.loss, mode=case.mode)
