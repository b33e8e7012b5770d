"""Small models of every kind that differs in how it can be differentiated, and what their derivatives are."""

import copy
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import distributed, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

ALL = ("kept", "linearized", "rebuilt", "forward", "difference")
NOT_LINEARIZED = ("kept", "rebuilt", "forward", "difference")
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
    def __init__(self, layer=nn.LSTM):
        super().__init__()
        self.lstm, self.last = layer(2, 3, batch_first=True), nn.Linear(3, 3)

    def forward(self, x):
        return self.last(self.lstm(x)[0][:, -1])


class Attention(nn.Module):
    """By torch's function (under a kernel of its own choice if it has one), or written out."""

    def __init__(self, kernel=None):
        super().__init__()
        self.three, self.last = nn.Linear(4, 12), nn.Linear(4, 3)
        self.kernel, self.written_out = kernel, False

    def forward(self, x):
        q, k, v = self.three(x).unsqueeze(1).chunk(3, -1)
        return self.last(self.attend(q, k, v).squeeze(1).mean(1))

    def attend(self, q, k, v):
        if self.written_out:
            return (q @ k.mT / k.shape[-1] ** 0.5).softmax(-1) @ v
        if self.kernel is None:
            return scaled_dot_product_attention(q, k, v)
        with sdpa_kernel(self.kernel):
            return scaled_dot_product_attention(q, k, v)


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


class Mixed(nn.Sequential):
    """Casts by itself."""

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(x)


class Experts(nn.Module):
    """Every sample goes where the router sends it."""

    def __init__(self):
        super().__init__()
        self.router = nn.Linear(4, 2)
        self.experts = nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 3)])

    def forward(self, x):
        shares = self.router(x).softmax(1)
        outputs = torch.zeros(len(x), 3, dtype=x.dtype)
        for index, expert in enumerate(self.experts):
            mine = shares.argmax(1) == index
            if mine.any():
                outputs[mine] += shares[mine, index : index + 1] * torch.tanh(expert(x[mine]))
        return outputs


class Normalized(nn.Module):
    """Weight normalization written out: the rows of the matrix are directions times lengths."""

    def __init__(self, model):
        super().__init__()
        first, self.last = model[0], copy.deepcopy(model[2])
        self.bias = copy.deepcopy(first.bias)
        self.lengths = copy.deepcopy(first.parametrizations.weight.original0)
        self.directions = copy.deepcopy(first.parametrizations.weight.original1)

    def forward(self, x):
        matrix = self.lengths * self.directions / self.directions.norm(dim=1, keepdim=True)
        return self.last(torch.tanh(x @ matrix.T + self.bias))


class Bag(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.table, self.last = copy.deepcopy(model[0].weight), copy.deepcopy(model[1])

    def forward(self, x):
        return self.last(self.table[x].mean(1))


class Once(torch.autograd.Function):
    """A sine whose gradient says that it has none itself."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0].cos()


class Sine(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


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


@contextmanager
def process_group():
    """A group of one process, gone afterwards."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def distributed_data_parallel(model):
    with process_group():
        return DistributedDataParallel(model)


@dataclass(frozen=True)
class Case:
    """``twin`` makes of the model one that computes the same in the plainest way, its parameters in the same order."""

    name: str
    model: nn.Module
    data: tuple
    loss: nn.Module
    modes: tuple
    mode: str = "eval"
    twin: Callable[[nn.Module], nn.Module] = lambda model: model

    def __str__(self):
        return self.name


def build(name):
    """A fresh case by name; the same numbers every time."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(hash_of(name))
        return CASES[name](name)


def hash_of(name):
    return sum(map(ord, name))


def _vectors(model, modes=ALL, twin=lambda model: model):
    return lambda name: Case(
        name,
        model(),
        (torch.randn(12, 4), torch.arange(12) % 3),
        nn.CrossEntropyLoss(),
        modes,
        twin=twin,
    )


def _sequences(model, width, modes, twin=lambda model: model):
    return lambda name: Case(
        name,
        model(),
        (torch.randn(6, 5, width), torch.arange(6) % 3),
        nn.CrossEntropyLoss(),
        modes,
        twin=twin,
    )


def _words(model, modes, twin):
    return lambda name: Case(
        name,
        model(),
        (torch.randint(0, 7, (9, 4)), torch.arange(9) % 3),
        nn.CrossEntropyLoss(),
        modes,
        twin=twin,
    )


def _changed(**attributes):
    """A twin whose parts have other attributes where they have them at all."""

    def twin(model):
        other = copy.deepcopy(model)
        for module in other.modules():
            for name in attributes.keys() & vars(module).keys():
                setattr(module, name, attributes[name])
        return other

    return twin


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
    "LSTM": _sequences(Recurrent, 2, NOT_LINEARIZED),
    "GRU": _sequences(lambda: Recurrent(nn.GRU), 2, NOT_LINEARIZED),
    "attention": _sequences(Attention, 4, ALL, _changed(written_out=True)),
    "attention by its own kernel": _sequences(
        lambda: Attention(SDPBackend.FLASH_ATTENTION),
        4,
        ("difference",),
        _changed(written_out=True),
    ),
    "encoder layer": _sequences(Encoder, 4, ALL),
    "mixture of experts": _vectors(Experts, NOT_LINEARIZED),
    "checkpoint": _vectors(lambda: Checkpointed(False), NOT_FORWARD, _changed(reentrant=None)),
    "reentrant checkpoint": _vectors(
        lambda: Checkpointed(True), ("difference",), _changed(reentrant=None)
    ),
    "compiled": _vectors(
        lambda: torch.compile(perceptron(), backend="eager"), twin=lambda model: model._orig_mod
    ),
    "compiled inside": _vectors(
        lambda: nn.Sequential(
            torch.compile(nn.Linear(4, 5), backend="eager"), nn.Tanh(), nn.Linear(5, 3)
        ),
        NOT_LINEARIZED,
        twin=lambda model: nn.Sequential(model[0]._orig_mod, *model[1:]),
    ),
    "DataParallel": _vectors(
        lambda: nn.DataParallel(perceptron()), twin=lambda model: model.module
    ),
    "compiled around DistributedDataParallel": _vectors(
        lambda: torch.compile(distributed_data_parallel(perceptron()), backend="eager"),
        twin=lambda model: model._orig_mod.module,
    ),
    "parallel wrappers inside": _vectors(
        lambda: nn.Sequential(
            distributed_data_parallel(nn.Linear(4, 5)),
            nn.Tanh(),
            nn.DataParallel(nn.Linear(5, 3)),
        ),
        twin=lambda model: nn.Sequential(model[0].module, model[1], model[2].module),
    ),
    "bfloat16": _vectors(lambda: perceptron().bfloat16()),
    "float16": _vectors(lambda: perceptron().half()),
    "autocast inside": _vectors(
        lambda: Mixed(*perceptron()), twin=lambda model: nn.Sequential(*model)
    ),
    "sparse embedding": _words(
        lambda: nn.Sequential(
            nn.Embedding(7, 2, sparse=True), nn.Flatten(), nn.Tanh(), nn.Linear(8, 3)
        ),
        ALL,
        _changed(sparse=False),
    ),
    "embedding bag": _words(
        lambda: nn.Sequential(nn.EmbeddingBag(7, 2), nn.Linear(2, 3)), ("difference",), Bag
    ),
    "weight normalization": _vectors(
        lambda: nn.Sequential(weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3)),
        ("difference",),
        Normalized,
    ),
    "once differentiable": _vectors(
        lambda: nn.Sequential(nn.Linear(4, 5), Sine(Once.apply), nn.Linear(5, 3)),
        ("difference",),
        lambda model: nn.Sequential(model[0], Sine(torch.sin), model[2]),
    ),
}


class Reference:
    """The naive loss over all data in float64, through torch's own dense derivatives."""

    def __init__(self, model, data, loss, *, mode="eval"):
        self.model = copy.deepcopy(model).double().train(mode == "train")
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
    return Reference(case.twin(case.model), case.data, case.loss, mode=case.mode)
