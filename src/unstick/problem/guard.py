"""Evaluating somebody's model without leaving a trace, and without what breaks second derivatives."""

import random
import sys
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from unstick.problem.matmul import fast_and_exact

__all__ = [
    "Narrowing",
    "devices_of",
    "put_back_buffers",
    "put_back_modes",
    "put_back_randomness",
    "seed_randomness",
    "unwrapped",
    "visiting",
    "wrappers",
]

PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)
SHORT = ("tf32", "bf16")  # internal types of float32 products that drop digits


def unwrapped(model: nn.Module) -> nn.Module:
    """The user's own module behind ``torch.compile``, ``DataParallel`` and ``DistributedDataParallel``, in any order."""
    around = wrappers(model)
    return _inside(around[-1]) if around else model


def wrappers(model: nn.Module) -> tuple[nn.Module, ...]:
    """What ``unwrapped`` takes off, the outermost first.

    Compiled graphs have no second derivative. The two parallel ones add nothing to a loss, but scatter, broadcast
    buffers and expect that every forward pass is followed by a backward pass to the parameters themselves.
    """
    found: list[nn.Module] = []
    while (inner := _inside(model)) is not model:
        found.append(model)
        model = inner
    return tuple(found)


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


def seed_randomness(seed: int, devices: Sequence[int]) -> None:
    """Seed just what ``put_back_randomness`` puts back for these devices, and inside it only."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - what a user's model may draw from
    torch.default_generator.manual_seed(seed)
    for device in devices:
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def devices_of(model: nn.Module) -> list[int]:
    """Numbers of the CUDA devices that hold a model's parameters."""
    return sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})


@contextmanager
def put_back_modes(model: nn.Module) -> Generator[None]:
    """Afterwards every module is in train or eval mode as before, each in its own."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def put_back_buffers(model: nn.Module) -> Generator[None]:
    """Afterwards every buffer is the tensor that it was, with the values that it had."""
    before = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, buffer, values in before:
                vars(module)["_buffers"][name] = buffer
                buffer.copy_(values)


@contextmanager
def visiting(
    model: nn.Module,
    *,
    training: bool,
    around: Sequence[nn.Module] = (),
    on_autocast: Callable[[], None] = lambda: None,
) -> Generator[None]:
    """Set the mode; afterwards put back every module's mode, the random state and all flags, also after an error.

    Inside, gradients are on and the model computes in the type of its parameters: autocast is off, whether entered
    outside or by the model itself, and so is TF32 (and bfloat16 inside float32 products of matrices) on CUDA and
    CPU, in matrix products, convolutions and recurrent layers alike: their three digits would pass for curvature.
    Attention runs under the MATH kernel and RNNs without cuDNN, as those kernels have no second derivative; cuDNN
    does not try out kernels, as it could choose another one each time; what is compiled runs as it was written;
    ``DataParallel`` and ``DistributedDataParallel`` pass on to the module inside them; embeddings give dense gradients.

    Args:
        model: Its mode, devices and parts.
        training: The mode to set.
        around: Wrappers of the model that a user's loss function may call instead of the model.
        on_autocast: Called when the model enters an autocast of its own.
    """
    device = next(iter(model.parameters())).device
    with (
        put_back_modes(model),
        torch.inference_mode(False),
        torch.enable_grad(),
        put_back_randomness(devices_of(model)),
        _without_fast_path(),
        warnings.catch_warnings(),
        _eager(),
        _passed_through([*around, *model.modules()]),
        _dense(model),
        torch.autocast(device.type, enabled=False),
        _without_autocast(on_autocast),
        _whole_products(),
        fast_and_exact(device),
        sdpa_kernel(SDPBackend.MATH),
        _quiet_vmap(),
        _calm_cudnn(enabled=device.type != "cuda" or not _recurrent(model)),
    ):
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)  # of vmap
        model.train(training)
        yield


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


def _inside(model: nn.Module) -> nn.Module:
    """The module in a wrapper, or the module itself where it is none."""
    inner = model.module if isinstance(model, PARALLEL) else getattr(model, "_orig_mod", model)
    return inner if isinstance(inner, nn.Module) else model


def _eager() -> AbstractContextManager[Any]:
    """Compiled models, parts and functions run as they were written: compiled graphs have no second derivative."""
    # Without it nothing is compiled, and importing it would take seconds.
    compiling = "torch._dynamo" in sys.modules
    return torch.compiler.set_stance("force_eager") if compiling else nullcontext()


@contextmanager
def _passed_through(modules: Iterable[nn.Module]) -> Generator[None]:
    """Parallel wrappers call the module inside them and do nothing else."""
    wrapping = {
        module: vars(module).get("forward") for module in modules if isinstance(module, PARALLEL)
    }
    try:
        for module in wrapping:
            vars(module)["forward"] = _inside(module).__call__
        yield
    finally:
        for module, before in wrapping.items():
            if before is None:
                vars(module).pop("forward", None)
            else:
                vars(module)["forward"] = before


@contextmanager
def _dense(model: nn.Module) -> Generator[None]:
    """Sparse gradients of embeddings cannot go on into one flat vector."""
    sparse = [
        module
        for module in model.modules()
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.sparse
    ]
    try:
        for module in sparse:
            module.sparse = False
        yield
    finally:
        for module in sparse:
            module.sparse = True


@contextmanager
def _without_autocast(on_enabled: Callable[[], None]) -> Generator[None]:
    """An autocast entered inside stays off."""
    autocast: Any = torch.autocast
    enter = autocast.__enter__

    def enter_disabled(context: Any) -> Any:
        entered = enter(context)
        if torch.is_autocast_enabled(context.device):
            on_enabled()
            torch.set_autocast_enabled(context.device, False)
        return entered

    # Of the class, as checkpointing enters it on autograd's threads.
    autocast.__enter__ = enter_disabled
    try:
        yield
    finally:
        autocast.__enter__ = enter


@contextmanager
def _whole_products() -> Generator[None]:
    """Products of float32 numbers use all their digits; the settings of each operation are put back."""
    backends: Any = torch.backends
    if getattr(backends.cudnn, "conv", None) is None:  # torch before 2.9 has two switches
        before = backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32
        backends.cuda.matmul.allow_tf32 = backends.cudnn.allow_tf32 = False
        try:
            yield
        finally:
            backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32 = before
        return
    # The new switches, one by one: the old ones raise where a program has used the new. Beside each, what it is unless
    # somebody sets it; "none" is what a wider setting says, such as that of all of CUDA.
    operations = {backends.cudnn.conv: "tf32", backends.cudnn.rnn: "tf32"}
    operations |= dict.fromkeys([backends.cuda.matmul, backends.mkldnn.matmul], "none")
    operations |= dict.fromkeys([backends.mkldnn.conv, backends.mkldnn.rnn], "none")
    shortened = {op: op.fp32_precision for op in operations if op.fp32_precision in SHORT}
    try:
        for operation in shortened:
            operation.fp32_precision = "ieee"
        yield
    finally:
        for operation, precision in shortened.items():
            operation.fp32_precision = operations[operation]
            if operation.fp32_precision != precision:
                operation.fp32_precision = precision


@contextmanager
def _quiet_vmap() -> Generator[None]:
    """Operations that vmap does one by one are slower and right; torch would write a line for each to stderr."""
    functorch: Any = import_module("torch._C._functorch")  # the switch has no public name
    functorch._set_vmap_fallback_warning_enabled(False)
    try:
        yield
    finally:
        functorch._set_vmap_fallback_warning_enabled(True)


@contextmanager
def _calm_cudnn(*, enabled: bool) -> Generator[None]:
    # Its own context manager raises where a program has used the new switches of TF32.
    cudnn: Any = torch.backends.cudnn
    before = cudnn.enabled, cudnn.benchmark
    try:
        cudnn.enabled, cudnn.benchmark = before[0] and enabled, False
        yield
    finally:
        cudnn.enabled, cudnn.benchmark = before
