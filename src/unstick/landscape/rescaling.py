"""The same function, as sharp as one likes: two layers of a ReLU network, one enlarged, the next reduced.

Answers: which pairs of layers can be rescaled, what the parameters are then, and what each measure of sharpness says.
Does not answer: which of these points generalizes better; they are one function.
"""

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from unstick.errors import BadData, BadModel
from unstick.landscape.sharpness import Sharpness, sharpness
from unstick.problem.batches import Batch, leaves, size_of
from unstick.problem.cost import Cost
from unstick.problem.problem import Problem
from unstick.record import Fact, Record, number

__all__ = ["Rescaled", "rescalable", "rescale", "rescaling_study"]

Progress = Callable[[str, float, float], None]

LINEAR = (
    nn.Linear,
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
HOMOGENEOUS = (
    *(nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.Identity, nn.Flatten, nn.Unflatten),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.ZeroPad2d, nn.Upsample),
)
"""Layers h with h(αx) = α·h(x) for every α > 0."""


@dataclass(frozen=True, slots=True, eq=False)
class Rescaled(Record):
    """One function at several points of the parameter space, and how sharp each of them is."""

    first: str  # the layer times α
    second: str  # the layer divided by α
    alphas: Tensor  # [a] float64
    thetas: Tensor  # [a, n] the parameters, as measured
    losses: Tensor  # [a] float64
    output_changes: (
        Tensor  # [a] float64, largest change of an output over that output's largest size
    )
    lambda_max: Tensor  # [a] float64
    phi: Tensor  # [a, k] float64, Keskar's φ of each ε; nan: not reached
    adaptive: Tensor  # [a] float64; nan: not reached
    measured: tuple[Sharpness, ...]  # [a], each with its bounds
    outcome: str  # "complete" or "interrupted": as many α as were done
    cost: Cost

    def headline(self) -> str:
        """How much the measures differ on one function."""
        if len(self.alphas) == 0:
            return "Interrupted before the first α was measured."
        spread = [
            f"{name} by a factor of {number(_spread(values))}"
            for name, values in (("λ max", self.lambda_max), ("φ", self.phi[:, 0]), ("adaptive sharpness", self.adaptive))
        ]  # fmt: skip
        return f"The same function at {len(self.alphas)} points: {', '.join(spread)}."

    def facts(self) -> list[Fact]:
        """One line an α."""
        rows = zip(self.alphas, self.losses, self.lambda_max, self.phi, self.adaptive, strict=True)
        return [
            ("rescaled", f"{self.first} times α, {self.second} divided by α"),
            *(
                (
                    f"α = {number(float(alpha))}",
                    f"loss {number(float(loss))}, λ max {number(float(top))}, "
                    f"φ {', '.join(number(x) for x in phi.tolist())} %, adaptive {number(float(adaptive))}",
                )
                for alpha, loss, top, phi, adaptive in rows
            ),
            ("outputs", f"change by {number(_largest(self.output_changes))} of the largest one"),
            ("means", "λ max and φ compare points only within one parametrization"),
            ("outcome", self.outcome),
            ("cost", str(self.cost)),
        ]


def rescalable(model: nn.Module) -> list[tuple[str, str]]:
    """Pairs of consecutive layers of which one can be multiplied by α > 0 and the next divided, and nothing changes.

    Looked for in chains of ``nn.Sequential``, nested ones too: Linear or convolution, then only what commutes with positive
    factors (ReLU and its kin, pooling, flattening, dropout), then Linear or convolution. Normalization between two layers
    takes the factor out of the first by itself; that is another symmetry, and such a pair is not listed.

    Example:
        >>> rescalable(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1)))
        [('0', '2')]
    """
    pairs: list[tuple[str, str]] = []
    for chain in _chains(model):
        at = [k for k, (_, layer) in enumerate(chain) if isinstance(layer, LINEAR)]
        for i, j in pairwise(at):
            between = all(isinstance(layer, HOMOGENEOUS) for _, layer in chain[i + 1 : j])
            if between and _once(model, chain[i][1]) and _once(model, chain[j][1]):
                pairs.append((chain[i][0], chain[j][0]))
    return pairs


def rescale(problem: Problem, first: str, second: str, alpha: float) -> Tensor:
    """The parameters [n] with one layer's weight and bias times α and the next one's weight divided by α.

    The outputs are compared on all data. The model stays where it is: ``problem.write(...)`` moves it.

    Args:
        problem: Whose model is rescaled.
        first: Name of the layer to multiply, of a pair of ``rescalable``.
        second: Name of the layer to divide.
        alpha: Finite and > 0; a negative factor turns a ReLU around. Powers of two are exact.

    Returns:
        θ in the type computed in. The blocks of the Hessian are those from before, divided by α² for the first layer and
        times α² for the second's weight.

    Raises:
        BadModel: Not a pair of ``rescalable``, a layer that is not trained here, or outputs that change.
        BadData: α is not a finite number above 0.

    Cost:
        Two thirds of a gradient.

    References:
        Dinh et al. (2017), Sharp minima can generalize for deep nets, definition 5.

    Example:
        >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False))
        >>> _ = [nn.init.ones_(p) for p in model.parameters()]
        >>> problem = Problem(model, (torch.ones(1, 1), torch.ones(1, 1)), nn.MSELoss())
        >>> rescale(problem, "0", "2", 4.0).tolist()
        [4.0, 0.25]
    """
    theta = _rescaled(problem, first, second, alpha)
    change, scale = _change(problem, theta)
    slack = torch.finfo(problem.dtype).eps ** 0.5  # half of the digits
    if not change <= slack * scale:
        raise BadModel(
            f"the outputs change by {change:g} (the largest is {scale:g}) when {first} is multiplied by {alpha:g} and {second} "
            "divided; expected none: the model uses these layers outside their chain, or α overflows"
        )
    return theta


def rescaling_study(
    problem: Problem,
    *,
    alphas: Sequence[float] = (0.25, 0.5, 1.0, 2.0, 4.0),
    layers: tuple[str, str] | None = None,
    epsilons: Sequence[float] = (1e-3, 5e-4),
    radius: float = 0.5,
    budget: float = 300,
    seed: int = 0,
    progress: Progress | None = None,
) -> Rescaled:
    """Measure every kind of sharpness at points that compute the same function.

    Args:
        problem: What is minimized; weight decay is not invariant, so its loss then changes with α.
        alphas: Factors; powers of two are exact.
        layers: The pair; None: the first of ``rescalable``.
        epsilons: As for ``sharpness``.
        radius: As for ``sharpness``.
        budget: Most work at each α, in full-data gradients.
        seed: The same random starts at every α.
        progress: Called with (stage, done, total).

    Returns:
        One row for each α, and the parameters, so that their surroundings can be drawn. The model is as it was.

    Raises:
        BadModel: The model has no such pair; as ``rescale``.
        BadData, BudgetTooSmall: As ``rescale`` and ``sharpness``.

    Cost:
        ``sharpness`` for each α.
    """
    if not alphas:
        raise BadData("no alphas were given; expected at least one factor > 0")
    before = problem.spent
    first, second = layers or _first_pair(problem.model)
    thetas: list[Tensor] = []
    changes: list[float] = []
    measured: list[Sharpness] = []
    outcome = "complete"
    planned = [rescale(problem, first, second, alpha) for alpha in alphas]
    start = problem.parameters()
    try:
        with _put_back(problem):
            for done, theta in enumerate(planned):
                if progress is not None:
                    progress("rescaling", done, len(alphas))
                problem.write(theta)
                change, scale = _change(problem, start)
                found = sharpness(
                    problem, epsilons=epsilons, radius=radius, budget=budget, seed=seed
                )
                thetas.append(problem.parameters())  # rounded to the model's own type
                changes.append(change / scale if scale else change)
                measured.append(found)
                if found.outcome == "interrupted":
                    raise KeyboardInterrupt
    except KeyboardInterrupt:
        outcome = "interrupted"
    done = len(measured)
    nan = math.nan
    tops = [nan if s.lambda_max is None else s.lambda_max.value for s in measured]
    phis = [[nan if phi is None else phi for phi in s.phi] for s in measured]
    return Rescaled(
        first=first,
        second=second,
        alphas=_numbers(list(alphas[:done])),
        thetas=torch.stack(thetas) if thetas else torch.empty(0, problem.n),
        losses=_numbers([s.loss for s in measured]),
        output_changes=_numbers(changes),
        lambda_max=_numbers(tops),
        phi=torch.tensor(phis, dtype=torch.float64).reshape(done, len(epsilons)),
        adaptive=_numbers([nan if s.adaptive is None else s.adaptive for s in measured]),
        measured=tuple(measured),
        outcome=outcome,
        cost=problem.spent - before,
    )


def _chains(model: nn.Module) -> list[list[tuple[str, nn.Module]]]:
    """The layers of every outermost ``nn.Sequential`` in the order they run, nested ones opened."""

    def opened(name: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
        if not _sequential(module):
            return [(name, module)]
        parts = module.named_modules(remove_duplicate=False)  # a layer may come twice in a chain
        inner = [
            (f"{name}.{part}" if name else part, m) for part, m in parts if part and "." not in part
        ]
        return [pair for part in inner for pair in opened(*part)]

    return [
        opened(name, module)
        for name, module in model.named_modules()
        if _sequential(module)
        and not (name and _sequential(model.get_submodule(name.rpartition(".")[0])))
    ]


def _sequential(module: nn.Module) -> bool:
    """Whether the module runs its parts one after the other and does nothing else."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _once(model: nn.Module, layer: nn.Module) -> bool:
    """Whether the layer's parameters are used in one place."""
    everywhere = [id(p) for _, p in model.named_parameters(remove_duplicate=False)]
    return all(everywhere.count(id(p)) == 1 for p in layer.parameters())


def _first_pair(model: nn.Module) -> tuple[str, str]:
    pairs = rescalable(model)
    if not pairs:
        raise BadModel(
            "the model has no two layers to rescale; expected, in an nn.Sequential, a Linear or convolution, then only ReLU, "
            "LeakyReLU, pooling or flattening (no normalization, no other activation), then a Linear or convolution"
        )
    return pairs[0]


def _rescaled(problem: Problem, first: str, second: str, alpha: float) -> Tensor:
    """The rescaled parameters [n], not yet compared."""
    problem.require_whole("rescale")
    if not 0 < alpha < math.inf:
        raise BadData(
            f"alpha is {alpha}; expected a finite number > 0, as a ReLU commutes with no other"
        )
    pairs = rescalable(problem.model)
    if (first, second) not in pairs:
        told = ", ".join(f"{one} and {two}" for one, two in pairs) or "none"
        raise BadModel(
            f"{first} and {second} cannot be rescaled; pairs that can: {told} (a Linear or convolution, then only ReLU, "
            "LeakyReLU, pooling or flattening, then a Linear or convolution, in one nn.Sequential)"
        )
    enlarged = [
        f"{first}.{name}" for name, _ in problem.model.get_submodule(first).named_parameters()
    ]
    factors = dict.fromkeys(enlarged, alpha) | {f"{second}.weight": 1 / alpha}
    missing = [name for name in factors if name not in problem.layout.names]
    if missing:
        raise BadModel(
            f"{', '.join(missing)} is not among the trained parameters; expected all of {', '.join(factors)}: unfreeze it"
        )
    theta = problem.parameters()
    for name, part in problem.layout.named(theta).items():
        part *= factors.get(name, 1.0)
    return theta


def _change(problem: Problem, theta: Tensor) -> tuple[float, float]:
    """How much an output changes at most from the model's parameters to θ, and the largest output; over all data.

    What a model's call returns counts, whatever a loss makes of it; the loss itself, where it makes no such call.
    """
    evaluation = problem.require_whole("rescale")
    seen: list[object] = []
    handle = evaluation.model.register_forward_hook(lambda _m, _given, output: seen.append(output))

    def outputs(at: Tensor, batch: Batch) -> list[Tensor]:
        seen.clear()
        loss = evaluation.batch_loss(at, batch)
        evaluation.meter.count("value", size_of(batch) or 1)
        found = [leaf for output in seen for leaf in leaves(output) if leaf.is_floating_point()]
        return [leaf.clone() for leaf in found] or [loss]

    change = scale = 0.0
    try:
        with evaluation.meter.timed(), evaluation.visit(), torch.no_grad():
            here = evaluation.theta()
            for batch in evaluation.batches:
                for one, other in zip(outputs(here, batch), outputs(theta, batch), strict=True):
                    change = max(change, _largest(one - other))
                    scale = max(scale, _largest(one))
    finally:
        handle.remove()
    gather = evaluation.team.gather
    return max(gather(change)), max(gather(scale))


@contextmanager
def _put_back(problem: Problem) -> Generator[None]:
    """Afterwards every parameter has its old bits."""
    copies = problem.layout.copies()
    try:
        yield
    finally:
        problem.layout.restore(copies)


def _largest(values: Tensor) -> float:
    """The largest size of an entry; inf where one is not a number, 0 where there is none."""
    if values.numel() == 0:
        return 0.0
    largest = float(values.detach().abs().max())
    return math.inf if math.isnan(largest) else largest


def _spread(values: Tensor) -> float | None:
    """The largest over the smallest."""
    known = values[torch.isfinite(values)]
    return float(known.max() / known.min()) if len(known) and float(known.min()) > 0 else None


def _numbers(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
