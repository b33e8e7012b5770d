"""What every contestant of ``curvature.py`` is judged by: true residuals, and one gradient as the unit of time.

It shares no code with any of them: its own loop over the batches, in float64, plain double backward.
"""

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn

__all__ = [
    "HIGHEST",
    "LOWEST",
    "WANTED_HIGH",
    "WANTED_LOW",
    "Answer",
    "Batches",
    "Pairs",
    "Reference",
    "Ruler",
    "Timed",
    "Verdict",
]

T = TypeVar("T")
Batches = Sequence[tuple[Tensor, Tensor]]

HIGHEST, LOWEST = 5, 1  # eigenpairs wanted
WANTED_HIGH, WANTED_LOW = 1e-3, 1e-2  # residuals ‖Hv − λv‖ / |λ| wanted of them
LEAST_GRADIENTS, LEAST_SECONDS = 5, 0.1  # measured before and after everything timed


@dataclass(frozen=True)
class Pairs:
    """Eigenpairs as a contestant reports them, outermost first."""

    values: Tensor  # [k]
    vectors: Tensor  # [n, k], of any length


@dataclass(frozen=True)
class Answer:
    """What a contestant found, and the products that it says or is known to have spent."""

    highest: Pairs
    lowest: Pairs | None  # None: it cannot
    products: int


@dataclass(frozen=True)
class Verdict:
    """An answer beside the reference."""

    high: float  # largest residual of the top five
    low: float  # residual of λmin; nan: not reported
    missed: bool  # a value is not the eigenvalue of that rank

    def reached(self) -> bool:
        """Whether everything reported is as exact as wanted, and the right eigenvalue."""
        return self.high <= WANTED_HIGH and not self.low > WANTED_LOW and not self.missed


class Reference:
    """The Hessian of the mean cross-entropy over the batches, in float64."""

    def __init__(self, model: nn.Module, batches: Batches) -> None:
        self._model = copy.deepcopy(model).double().eval()
        self._batches = [(_wide(inputs), targets) for inputs, targets in batches]
        self._parameters = [p for p in self._model.parameters() if p.requires_grad]
        self._known: tuple[Tensor, Tensor] | None = None
        self.n = sum(p.numel() for p in self._parameters)
        self.device = self._parameters[0].device

    def products(self, V: Tensor) -> Tensor:
        """H V for columns V [n, k]."""
        columns = V.to(self.device, torch.float64)
        total = torch.zeros_like(columns)
        samples = sum(len(targets) for _, targets in self._batches)
        for inputs, targets in self._batches:
            loss = nn.functional.cross_entropy(self._model(inputs), targets)
            gradient = torch.autograd.grad(loss, self._parameters, create_graph=True)
            flat = torch.cat([g.reshape(-1) for g in gradient])
            for k in range(columns.shape[1]):
                product = torch.autograd.grad(
                    flat, self._parameters, columns[:, k], retain_graph=True
                )
                total[:, k] += (len(targets) / samples) * torch.cat(
                    [p.reshape(-1) for p in product]
                )
        return total

    def residuals(self, pairs: Pairs) -> Tensor:
        """‖Hv − λv‖ / |λ| of each pair, with the λ that was reported and v made a unit vector."""
        V = pairs.vectors.to(self.device, torch.float64)
        unit = V / torch.linalg.vector_norm(V, dim=0)
        values = pairs.values.to(self.device, torch.float64)
        return torch.linalg.vector_norm(self.products(unit) - values * unit, dim=0) / values.abs()

    def extremes(self) -> tuple[Tensor, Tensor]:
        """The highest and lowest eigenvalues, outermost first, by ARPACK on this operator.

        At residuals as small as wanted, the values are exact to about their squares.
        """
        if self._known is None:

            def matvec(v: NDArray[np.float64]) -> NDArray[np.float64]:
                return self.products(torch.from_numpy(v).reshape(-1, 1))[:, 0].cpu().numpy()

            A = cast("Any", LinearOperator)((self.n, self.n), matvec=matvec, dtype=np.float64)
            start = np.random.default_rng(12345).standard_normal(self.n)  # nobody else's
            high, low = (
                cast("Any", eigsh)(
                    A, k=k, which=which, tol=tol, v0=start, return_eigenvectors=False
                )
                for k, which, tol in ((HIGHEST, "LA", 1e-3), (LOWEST, "SA", 1e-2))
            )
            self._known = (
                torch.from_numpy(high.copy()).sort(descending=True).values,
                torch.from_numpy(low.copy()).sort().values,
            )
        return self._known

    def judge_high(self, pairs: Pairs) -> tuple[float, bool]:
        """The largest residual of the top five, and whether their values are not the top five."""
        return float(self.residuals(pairs).max()), _off(
            pairs.values, self.extremes()[0], 2 * WANTED_HIGH
        )

    def judge_low(self, pairs: Pairs) -> tuple[float, bool]:
        """The residual of λmin, and whether it is another eigenvalue."""
        residual = float(self.residuals(pairs).max())
        # A residual that is still large says itself that λmin is not there yet.
        settled = residual <= WANTED_LOW
        return residual, settled and _off(pairs.values, self.extremes()[1], 2 * WANTED_LOW)

    def judge(self, answer: Answer) -> Verdict:
        """Both ends of an answer."""
        high, missed_high = self.judge_high(answer.highest)
        if answer.lowest is None:
            return Verdict(high, float("nan"), missed_high)
        low, missed_low = self.judge_low(answer.lowest)
        return Verdict(high, low, missed_high or missed_low)


@dataclass(frozen=True)
class Timed:
    """Wall time, and the same in gradients measured right before and right after."""

    seconds: float
    gradients: float


class Ruler:
    """One plain gradient: a torch loop over the given batches; measured all through a run, as machines are noisy."""

    def __init__(self, model: nn.Module, batches: Batches) -> None:
        self._model = copy.deepcopy(model).eval()
        self._batches = batches
        self._parameters = [p for p in self._model.parameters() if p.requires_grad]
        self._all: list[float] = []
        self._measure()
        self._all.clear()  # the first ones warm up

    def gradient(self) -> Tensor:
        """The gradient over all batches."""
        total = torch.zeros(sum(p.numel() for p in self._parameters), device=self.device)
        samples = sum(len(targets) for _, targets in self._batches)
        for inputs, targets in self._batches:
            loss = nn.functional.cross_entropy(self._model(inputs), targets)
            parts = torch.autograd.grad(loss, self._parameters)
            total += (len(targets) / samples) * torch.cat([p.reshape(-1) for p in parts])
        return total

    @property
    def device(self) -> torch.device:
        """Where everything lies."""
        return self._parameters[0].device

    def time(self, work: Callable[[], T]) -> tuple[T, Timed]:
        """Run work; its result and what it took."""
        around = self._measure()
        self._synchronize()
        begin = time.perf_counter()
        result = work()
        self._synchronize()
        seconds = time.perf_counter() - begin
        around += self._measure()
        return result, Timed(seconds, seconds / statistics.median(around))

    def told(self) -> str:
        """The unit, for people."""
        decile = statistics.quantiles(self._all, n=10)
        return (
            f"one gradient: {1e3 * statistics.median(self._all):.3g} ms, median of {len(self._all)} taken all "
            f"through (tenth to ninetieth percentile {1e3 * decile[0]:.3g} to {1e3 * decile[-1]:.3g} ms)"
        )

    def _measure(self) -> list[float]:
        took: list[float] = []
        while len(took) < LEAST_GRADIENTS or sum(took) < LEAST_SECONDS:
            self._synchronize()
            begin = time.perf_counter()
            self.gradient()
            self._synchronize()
            took.append(time.perf_counter() - begin)
        self._all += took
        return took

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _wide(inputs: Tensor) -> Tensor:
    return inputs.double() if inputs.is_floating_point() else inputs


def _off(values: Tensor, known: Tensor, slack: float) -> bool:
    gap = (values.detach().cpu().double() - known).abs()
    return bool((gap > slack * known.abs()).any())
