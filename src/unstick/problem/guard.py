"""Evaluating somebody's model without leaving a trace, and without what breaks second derivatives."""

import random
import warnings
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

__all__ = ["Narrowing", "put_back_randomness", "unwrapped", "visiting"]


def unwrapped(model: nn.Module) -> nn.Module:
    """The module behind ``torch.compile``, which double backward cannot pass."""
    inner = getattr(model, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else model


@contextmanager
def put_back_randomness(devices: Sequence[int]) -> Generator[None]:
    """Afterwards the global random states of Python, NumPy and torch (CPU and these CUDA devices) are as before."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 - a user's data set may draw from it
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002


@contextmanager
def visiting(model: nn.Module, *, training: bool) -> Generator[None]:
    """Set the mode; afterwards put back every module's mode and the random state, also after an error.

    Inside, gradients are on, autocast from outside is off, attention runs under the MATH kernel and RNNs without
    cuDNN: those two have no second derivative otherwise.
    """
    flags = [(module, module.training) for module in model.modules()]
    device = next(iter(model.parameters())).device
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            put_back_randomness(devices),
            _without_fast_path(),
            warnings.catch_warnings(),
            _eager(model),
            torch.autocast(device.type, enabled=False),
            sdpa_kernel(SDPBackend.MATH),
            torch.backends.cudnn.flags(enabled=device.type != "cuda" or not _recurrent(model)),
        ):
            warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)  # of vmap
            model.train(training)
            yield
    finally:
        for module, flag in flags:
            module.training = flag


class Narrowing(TorchFunctionMode):
    """Notices, while active, whether a float64 tensor was cast to a shorter floating-point type."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and look at what came of its first argument."""
        result = func(*args, **(kwargs or {}))
        first = args[0] if args else None
        if (
            isinstance(first, Tensor)
            and first.dtype == torch.float64
            and isinstance(result, Tensor)
        ):
            self.seen |= result.is_floating_point() and result.dtype != torch.float64
        return result


@contextmanager
def _without_fast_path() -> Generator[None]:
    """Transformer layers take one way with gradients and without, so that losses and gradients agree."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _recurrent(model: nn.Module) -> bool:
    return any(isinstance(module, nn.RNNBase) for module in model.modules())


def _eager(model: nn.Module) -> AbstractContextManager[Any]:
    """Compiled parts inside a model run as they were written: compiled graphs have no second derivative."""
    marks = ("_orig_mod", "_compiled_call_impl")
    compiled = any(
        getattr(part, mark, None) is not None for part in model.modules() for mark in marks
    )
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()
