"""The Hessian of a problem as a symmetric operator, bound to the parameters where it was taken.

Answers: H v and H V at these parameters, by the way of computing it that works and is fastest here, tested first.
Does not answer: anything about eigenvalues; that is ``spectrum``.
"""

import math
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unstick.errors import BadModel, StaleOperator, UnstickError
from unstick.problem.batches import size_of
from unstick.problem.cost import WORK
from unstick.problem.evaluation import PROBE_SAMPLES, REFUSALS, Evaluation, ordinary
from unstick.problem.linearization import Linearization
from unstick.problem.memory import Graphs, largest_batch, plan_graphs
from unstick.problem.products import (
    Difference,
    Forward,
    Kept,
    Linearized,
    Products,
    Stored,
    graph_of_a_sample,
    saved_bytes,
)
from unstick.record import number

__all__ = ["MODES", "Choice", "HessianOperator", "Records", "choose"]

Records = dict[Hashable, Linearization]

MODES = ("auto", "kept", "linearized", "rebuilt", "forward", "difference")
TEST_SAMPLES = 64
TEST_VECTORS = 24  # of all parameters, in use at once by the self-test
AT_ONCE = 4  # columns from which one pass for all beats a pass a column
PRODUCTS = 40  # that a set-up must pay for; of a small Hessian all columns are computed
SMALL = 4096  # parameters
WORTH = (
    1.0  # seconds of products from which a linearization is tried: it takes some tenths of a second
)
SAVES = 0.9  # the part of a kept product's time that a linearized one may take
FASTER = (
    1.5  # a mode must be this much faster to displace one higher in the order: timings are noisy
)
DIFFERENCE_AGREES = (
    0.1  # a product further from finite differences than this fraction is remarked on
)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which way of computing products was chosen, and what the probe saw."""

    mode: str  # one of MODES without "auto"
    bytes_per_sample: float  # of a kept graph
    blind: bool  # finite differences see curvature that automatic differentiation does not: kinks
    note: str  # one line for people


class HessianOperator:
    """H at the parameters of its making; satisfies ``SymmetricOperator``.

    Args:
        evaluation: The loss whose Hessian it is.
        choice: How to compute products.
        memory: Bytes for kept graphs.
        records: Linearizations that ``choose`` made at these parameters; left out, they are made when they are needed.

    Every product costs as ``WORK`` says; the first also builds the kept graphs, one gradient.
    """

    def __init__(
        self, evaluation: Evaluation, choice: Choice, memory: int, records: Records | None = None
    ) -> None:
        self._records = records
        self._evaluation = evaluation
        self._theta = evaluation.theta()
        self._choice = choice
        self._memory = memory
        self._products: Products | None = None
        self._tried_batching = False

    @property
    def dim(self) -> int:
        """Number of parameters n."""
        return self._evaluation.layout.n

    @property
    def dtype(self) -> torch.dtype:
        """The type computed with."""
        return self._evaluation.dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self._evaluation.layout.device

    @property
    def mode(self) -> str:
        """The way products are computed."""
        return self._choice.mode

    @property
    def graphs(self) -> Graphs:
        """Which graphs will be kept within the memory, and what all of them take at the worst moment."""
        return _graphs(self._evaluation, self._choice, self._memory)

    @property
    def product_price(self) -> float:
        """Full-data gradients that a product costs."""
        if self.mode == "difference":
            return 2.0
        if self.mode == "forward":
            return WORK["product/forward"]
        held = self.graphs.kept_share
        return held * WORK["product/kept"] + (1 - held) * WORK["product/rebuilt"]

    @property
    def setup_price(self) -> float:
        """Full-data gradients that the first product costs on top: building the graphs, or about what it takes to find a step."""
        return 6.0 if self.mode == "difference" else self.graphs.kept_share

    def matvec(self, v: Tensor) -> Tensor:
        """The product H v, shape [n].

        Raises:
            StaleOperator: The model's parameters have changed since ``hessian()``.
        """
        return self.matmat(v.unsqueeze(1)).squeeze(1)

    def matmat(self, V: Tensor) -> Tensor:
        """The products H V, shape [n, k].

        Raises:
            StaleOperator: The model's parameters have changed since ``hessian()``.
        """
        ev = self._evaluation
        if not torch.equal(ev.theta(), self._theta):
            raise StaleOperator(
                "the model's parameters have changed since hessian() was called; a Hessian belongs to one point: "
                "call problem.hessian() again"
            )
        with ev.meter.timed(), ev.visit():
            columns = ordinary(V.to(self.device, self.dtype))
            [product] = ev.pooled(lambda: [self._of_our_data(columns)])
            return product if ev.decay is None else product + ev.decay.unsqueeze(1) * columns

    def error(self) -> float:
        """Estimated norm of the error of H v for unit v beyond rounding: 0 for automatic differentiation."""
        products = self._products
        if not isinstance(products, Difference):
            return 0.0
        error = products.error if math.isfinite(products.error) else 0.0
        # The errors of the processes' parts add up at most.
        return float(self._evaluation.team.sum(torch.tensor([error], dtype=torch.float64)))

    def _of_our_data(self, V: Tensor) -> Tensor:
        """The part of the products that comes from this process's batches."""
        if self._products is None:
            self._products = self._build()
        return self._times(self._products, V)

    def _build(self) -> Products:
        ev, choice, memory = self._evaluation, self._choice, float(self._memory)
        if choice.mode == "linearized":
            try:
                return Linearized(
                    ev, self._theta, memory, choice.bytes_per_sample, records=self._records
                )
            except (UnstickError, *REFUSALS):  # a batch of another form takes another way
                self._choice = replace(choice, mode="rebuilt")
        return _make(ev, self._theta, self.mode, memory, choice.bytes_per_sample)

    def _times(self, products: Products, V: Tensor) -> Tensor:
        """Products, many columns at once where that is faster and right, tested once."""
        if not isinstance(products, Stored) or self._tried_batching:
            return products.times(V)
        if min(V.shape[1], products.width) >= AT_ONCE:
            self._tried_batching = True
            few = V[:, :2]
            alone = products.times(few)
            products.batched = True
            try:
                slack = 1e3 * torch.finfo(V.dtype).eps * float(alone.norm())
                products.batched = float((products.times(few) - alone).norm()) <= slack
            except REFUSALS:  # an operation that vmap cannot batch
                products.batched = False
        return products.times(V)


def choose(
    evaluation: Evaluation, mode: str, memory: int, seed: int
) -> tuple[Choice, Records | None]:
    """Probe the ways of computing products on a few samples and pick one.

    Every candidate is tested: linearity, symmetry, agreement with one finite difference.

    Args:
        evaluation: The loss.
        mode: One of ``MODES``; "auto" picks, another name insists.
        memory: Bytes for kept graphs.
        seed: Seed of the probe vectors.

    Returns:
        The choice, and linearizations made on the way, which hold at these parameters.

    Raises:
        BadModel: The insisted-on mode does not work here, or none does.

    Cost:
        About 20 gradients of at most 256 samples.
    """
    if mode not in MODES:
        raise BadModel(f"mode of products is {mode!r}; expected one of {', '.join(MODES)}")
    with evaluation.meter.timed(), evaluation.visit():
        return _choose(evaluation, mode, memory, seed)


def _choose(
    evaluation: Evaluation, mode: str, memory: int, seed: int
) -> tuple[Choice, Records | None]:
    trials = _Trials(evaluation, memory, seed)
    records, compared = None, ""
    if mode == "auto":
        best = _fastest(trials)
    elif trials.passes("kept" if mode == "rebuilt" else mode):
        best = mode
    else:
        [why] = trials.failures.values()
        raise BadModel(
            f"Hessian products by mode {mode!r} do not work for this model: {why}; use mode 'auto'"
        )
    test = trials.tests["kept" if best == "rebuilt" else best]
    per_sample = trials.per_sample
    if mode == "auto" and best == "kept" and trials.all_products >= WORTH:
        try:
            trial = _try_linearized(evaluation, trials.v, memory, per_sample)
        except (UnstickError, *REFUSALS) as error:
            trials.failures["linearized"] = _line(error)
        else:
            compared = trial.told
            if trial.records is not None:
                best, records, per_sample = "linearized", trial.records, trial.per_sample
    stored = best in ("kept", "linearized")
    needed = f"{per_sample * evaluation.samples / 2**20:.0f} MB" if stored else ""
    held = f" (graphs of {needed} within {memory / 2**20:.0f} MB)" if stored else ""
    timings = ", ".join(f"{name} {1e3 * t:.2g} ms" for name, t in trials.seconds.items())
    refused = "".join(f"; {name} not possible: {why}" for name, why in trials.failures.items())
    choice = Choice(
        mode=best,
        bytes_per_sample=per_sample,
        blind=test.blind,
        note=f"Hessian products: {best}{held}; a product on {trials.probe.samples} samples took {timings}{compared}; {test.told()}{refused}",
    )
    return choice, records


class _Trials:
    """The ways that were tried on a few samples: what a product took, what its tests found, why it failed."""

    def __init__(self, evaluation: Evaluation, memory: int, seed: int) -> None:
        self.evaluation = evaluation
        self.memory = memory
        self.probe = _probe(evaluation, memory)
        self.theta = self.probe.theta()
        generator = torch.Generator().manual_seed(seed)
        size = len(self.theta)
        self.u, self.v = torch.randn(2, size, generator=generator, dtype=torch.float64)
        self.seconds: dict[str, float] = {}
        self.tests: dict[str, _Test] = {}
        self.failures: dict[str, str] = {}
        self.per_sample = 0.0  # bytes of a kept graph

    @property
    def all_products(self) -> float:
        """Seconds that the products ahead will take by kept graphs."""
        ev = self.evaluation
        products = ev.layout.n if ev.layout.n <= SMALL else PRODUCTS
        return self.seconds["kept"] / self.probe.samples * ev.all_samples * products

    def passes(self, name: str) -> bool:
        """Whether a way works and passes its self-test; if so, it is timed."""
        unit = self.v.to(self.theta.device, self.theta.dtype).unsqueeze(1)
        try:
            self.tests[name] = _self_test(self.probe, name, self.u, self.v, self.memory)
            products = _make(self.probe, self.theta, name, math.inf, 0.0)
            self.seconds[name] = min(_timed(lambda: products.times(unit))[1] for _ in range(2))
            if isinstance(products, Linearized):
                self.per_sample = products.kept_bytes / self.probe.samples
            if name == "kept":
                self.per_sample = saved_bytes(self.probe)
                again = _make(self.probe, self.theta, "rebuilt", 0.0, self.per_sample)
                self.seconds["rebuilt"] = _timed(lambda: again.times(unit))[1]
        except (UnstickError, *REFUSALS) as error:
            self.failures[name] = _line(error)
        return name in self.seconds and name not in self.failures


def _fastest(trials: _Trials) -> str:
    """The way to take: kept graphs where all fit, what is much faster where they do not, and what works at all."""
    if trials.passes("kept"):
        choice = Choice("kept", trials.per_sample, False, "")
        held = _graphs(trials.evaluation, choice, trials.memory).kept_share
        if held == 1.0 or not trials.passes("forward"):
            return "kept"
        mixed = held * trials.seconds["kept"] + (1 - held) * trials.seconds["rebuilt"]
        return "kept" if mixed <= FASTER * trials.seconds["forward"] else "forward"
    for name in ("forward", "difference"):
        if trials.passes(name):
            return name
    why = "; ".join(f"{name}: {text}" for name, text in trials.failures.items())
    raise BadModel(
        f"no way of computing Hessian products works for this model ({why}); expected a smooth loss"
    )


def _probe(evaluation: Evaluation, memory: int) -> Evaluation:
    """A few samples, so few that what they take in float64 is a part of the memory."""
    per_sample = graph_of_a_sample(evaluation)
    if per_sample is None:
        return evaluation.probe(PROBE_SAMPLES)
    wide = per_sample * torch.float64.itemsize / evaluation.dtype.itemsize
    return evaluation.probe(min(PROBE_SAMPLES, largest_batch(per_sample=wide, memory=memory)))


@dataclass(frozen=True, slots=True)
class _Trial:
    records: Records | None  # None where they do not pay
    per_sample: float
    told: str


def _try_linearized(evaluation: Evaluation, v: Tensor, memory: int, per_sample: float) -> _Trial:
    """A linearized product beside a kept one on the first batch, or on the probe's samples where that is large.

    Raises:
        BadModel: The two differ.
    """
    one = evaluation.probe(4 * PROBE_SAMPLES)
    theta = one.theta()
    fits = plan_graphs(
        [one.samples], per_sample=per_sample, vector=theta.nbytes, memory=memory / 2
    ).kept
    if not all(fits):
        return _Trial(None, 0.0, "; linearized not tried: a batch takes much of the memory")
    records: Records = {}
    kept = Kept(one, theta, math.inf, 0.0)
    linear = Linearized(one, theta, math.inf, 0.0, records=records)
    unit = v.to(theta.device, theta.dtype).unsqueeze(1)
    expected, found = kept.times(unit), linear.times(unit)
    far = float((found - expected).norm())
    if not far <= 1e3 * torch.finfo(theta.dtype).eps * float(expected.norm()):
        raise BadModel(f"its product differs by {number(far / float(expected.norm()), 1)}")
    slow, fast = (
        min(_timed(lambda p=p: p.times(unit))[1] for _ in range(3)) for p in (kept, linear)
    )
    told = f"; on {one.samples} samples kept {1e3 * slow:.2g} ms, linearized {1e3 * fast:.2g} ms"
    return _Trial(records if fast <= SAVES * slow else None, linear.kept_bytes / one.samples, told)


@dataclass(frozen=True, slots=True)
class _Test:
    linearity: float
    symmetry: float
    disagreement: float  # with finite differences, relative
    contradicted: bool  # by differences at every step
    kinked: bool  # the gradient itself jumps or bends sharply there

    @property
    def blind(self) -> bool:
        return self.contradicted and self.kinked

    def told(self) -> str:
        text = f"self-test: linear to {number(self.linearity, 1)}, symmetric to {number(self.symmetry, 1)}"
        if not self.contradicted:
            return f"{text}, finite differences agree to {number(self.disagreement, 1)}"
        text = (
            f"{text}; finite differences disagree by {100 * self.disagreement:.0f} % at every step"
        )
        if self.kinked:
            return f"{text}: the loss has kinks here, such as ReLU at 0, that second derivatives do not see"
        return text


def _self_test(probe: Evaluation, name: str, u: Tensor, v: Tensor, memory: int) -> _Test:
    """Linearity, symmetry and agreement with finite differences, in float64 where the model and the memory allow it."""
    probe = probe.probe(TEST_SAMPLES)
    fits = TEST_VECTORS * torch.float64.itemsize * probe.layout.n <= memory
    wide = (probe.widened() if fits else None) or probe
    products = _make(wide, wide.theta(), name, math.inf, 0.0)
    u, v = (w.to(products.theta.device, products.theta.dtype) / w.norm() for w in (u, v))
    both = products.times(torch.stack([u, v, 0.6 * u - 0.8 * v], dim=1))
    size = float(both.norm()) or 1.0
    linearity = float((both[:, 2] - 0.6 * both[:, 0] + 0.8 * both[:, 1]).norm()) / size
    symmetry = abs(float(u @ both[:, 1] - v @ both[:, 0])) / size
    disagreement, contradicted, kinked = _compare(wide, u, both[:, 0])
    check = _Test(linearity, symmetry, disagreement, contradicted, kinked)
    eps = torch.finfo(products.theta.dtype).eps
    allowed = DIFFERENCE_AGREES if isinstance(products, Difference) else max(1e-9, 1e4 * eps)
    if not (check.linearity <= allowed and check.symmetry <= allowed):
        raise BadModel(f"{products.name} is not a symmetric linear map ({check.told()})")
    if contradicted and not kinked:
        raise BadModel(
            f"{products.name} gives other products than the gradient's changes ({check.told()})"
        )
    return check


def _compare(probe: Evaluation, unit: Tensor, product: Tensor) -> tuple[float, bool, bool]:
    """A product beside difference quotients at ever smaller steps.

    Returns:
        The relative disagreement; whether it persists at every step, as it does for a wrong product and at a kink;
        whether it is a kink: the gradient bends sharply between the two sides, or its jump outgrows the step.
    """
    difference = Difference(probe, probe.theta())
    here = difference.gradient(difference.theta)
    eps = torch.finfo(here.dtype).eps
    first, relative, kinked = math.inf, 0.0, False
    for finer in (
        (1.0, 1 / 8, 1 / 64, 1 / 512) if here.dtype == torch.float64 else (1.0, 1 / 4, 1 / 16)
    ):
        step = finer * difference.step
        ahead, behind = difference.sides(unit, step)
        quotient = (ahead - behind) / (2 * step)
        reference = max(float(quotient.norm()), float(product.norm()))
        gap = float((quotient - product).norm())
        rounding = 20 * eps * float(ahead.norm() + behind.norm() + here.norm()) / step
        relative = gap / (reference or 1.0)
        first = gap if finer == 1.0 else first
        # The last: curvature of higher order, or a kink passed on the way.
        if gap <= DIFFERENCE_AGREES * reference + rounding or (gap < 0.5 * first and finer < 1 / 8):
            return relative, False, False
        bend = float((ahead - 2 * here + behind).norm()) / step
        kinked = bend > DIFFERENCE_AGREES * reference + rounding or gap > 2 * first
    return relative, True, kinked


def _graphs(evaluation: Evaluation, choice: Choice, memory: float) -> Graphs:
    """The plan by which ``Kept`` goes; other modes keep no graph, but the work on a batch takes about as much."""
    return plan_graphs(
        [size_of(batch) or 1 for batch in evaluation.batches],
        per_sample=choice.bytes_per_sample,
        vector=evaluation.layout.n * evaluation.dtype.itemsize,
        memory=memory,
        keep=choice.mode in ("kept", "linearized"),
    )


def _make(
    evaluation: Evaluation, theta: Tensor, mode: str, memory: float, per_sample: float
) -> Products:
    if mode == "forward":
        return Forward(evaluation, theta)
    if mode == "difference":
        return Difference(evaluation, theta)
    if mode == "linearized":
        return Linearized(evaluation, theta, memory, per_sample)
    return Kept(evaluation, theta, memory, per_sample, keep=mode == "kept")


def _line(error: Exception) -> str:
    return " ".join(str(error).split("\n")[0].split())[:120]


def _timed(work: Callable[[], Tensor]) -> tuple[Tensor, float]:
    begin = time.perf_counter()
    result = work()
    if result.is_cuda:
        torch.cuda.synchronize(result.device)
    return result, time.perf_counter() - begin
