"""Who leaves an exact saddle: gradient descent, noise of mini-batches, momentum, added noise, negative curvature."""

from collections.abc import Mapping, Sequence
from math import inf, isfinite, log10, sqrt

import torch
from torch import Tensor, nn

from unstick.critical.curvature import curvature_ends
from unstick.problem.problem import Problem
from unstick.record import number
from unstick.studies.frame import (
    Arm,
    Decision,
    Effect,
    Picture,
    Series,
    Setting,
    Side,
    Study,
    Table,
    Task,
    Verdict,
    combined,
    paired,
    verdict_of,
)
from unstick.studies.frame.sketching import sketch
from unstick.studies.frame.table import Value
from unstick.studies.measures.curves import binned
from unstick.training.loop import Trained, train
from unstick.training.optimizers import make_optimizer
from unstick.training.recipe import Recipe

__all__ = ["STUDY"]

SIZE, CODE, SAMPLES = 8, 2, 512
RATE, BATCH = 0.02, 32
PIECES = 6  # of a noisy course
LEFT = 0.95  # of the saddle's loss: below, a run has left
MOST = (3000, 12_000)  # updates, quick and full
BESIDE = (
    0.1  # distance from the saddle at which an arrival begins, and that a first velocity covers
)
SADDLES: Mapping[str, tuple[int, ...]] = {"all zero": (), "{0, 1}": (0, 1), "{3, 5}": (3, 5)}
"""The principal components that a saddle keeps, numbered from the one of least variance."""
METHODS: Mapping[str, dict[str, object]] = {
    "gradient descent": {"optimizer": "gradient-descent"},
    "SGD": {"optimizer": "sgd", "batch": BATCH},
    "momentum": {"optimizer": "momentum"},
    "momentum, arriving": {"optimizer": "momentum", "velocity": True},
    "gradient descent from beside": {"optimizer": "gradient-descent", "beside": True},
    "momentum from beside": {"optimizer": "momentum", "beside": True},
    "perturbed gradient descent": {"optimizer": "perturbed-gradient-descent"},
    "negative curvature": {"optimizer": "negative-curvature"},
}
CNC = "noise along the way out"
WELLS: Mapping[str, int | None] = {"full gradients": None, "batches of 64": 64, "batches of 4": 4}
TILT, NOISE, WELL_RATE = (
    0.2,
    2.0,
    0.1,
)  # of the poor minimum; NOISE is the deviation of a sample's slope


def _arms(setting: Setting) -> Sequence[Arm]:
    del setting
    saddles = [
        Arm(f"{method} at {saddle}", {"saddle": saddle, "method": method})
        for saddle in SADDLES
        for method in (CNC, *METHODS)
    ]
    return saddles + [Arm(f"poor minimum, {name}", {"well": name}) for name in WELLS]


def _measure(task: Task) -> dict[str, Value]:
    if "well" in task.arm.knobs:
        return _well(task)
    model, inputs = _saddle(task)
    if task.arm["method"] == CNC:
        return _noise(model, inputs, task.seed)
    return _escape(task, model, inputs)


def _saddle(task: Task) -> tuple[nn.Sequential, Tensor]:
    """A linear autoencoder at a critical point, on data whose covariance is diag(1 … size) to rounding."""
    draw = task.generator("data")
    raw = torch.randn(SAMPLES, SIZE, generator=draw, dtype=torch.float64)
    white = torch.linalg.qr(raw).Q * sqrt(SAMPLES)
    inputs = white * torch.arange(1, SIZE + 1, dtype=torch.float64).sqrt()
    model = nn.Sequential(
        nn.Linear(SIZE, CODE, bias=False), nn.Linear(CODE, SIZE, bias=False)
    ).double()
    first, second = (parameter.detach() for parameter in model.parameters())
    first.zero_()
    for row, component in enumerate(SADDLES[task.arm["saddle"]]):
        first[row, component] = 1.0
    second.copy_(first.T)
    return model, inputs


def _noise(model: nn.Module, inputs: Tensor, seed: int) -> dict[str, Value]:
    """The mean square of the samples' gradients along v_min, and λ_min: what lets SGD leave (Daneshmand et al., 2018)."""
    problem = Problem(model, (inputs, inputs), nn.MSELoss())
    ends = curvature_ends(problem, lowest=1, highest=1, seed=seed)
    v = ends.lowest.vectors[:, 0]
    slopes: list[float] = []
    for one in inputs[:64].split(1):
        loss = nn.functional.mse_loss(model(one), one)
        gradient = torch.autograd.grad(loss, list(model.parameters()))
        slopes.append(float(nn.utils.parameters_to_vector(gradient) @ v))
    return {
        "noise": sum(slope * slope for slope in slopes) / len(slopes),
        "lowest": float(ends.lowest.values[0]),
        "gradient_norm": float(torch.linalg.vector_norm(problem.gradient())),
    }


def _escape(task: Task, model: nn.Module, inputs: Tensor) -> dict[str, Value]:
    method = METHODS[task.arm["method"]]
    saddle = nn.functional.mse_loss(model(inputs), inputs).item()
    way = torch.randn(2 * SIZE * CODE, generator=task.generator("way"), dtype=torch.float64)
    way *= BESIDE / torch.linalg.vector_norm(way)
    if "beside" in method:
        with torch.no_grad():
            theta = nn.utils.parameters_to_vector(model.parameters())
            nn.utils.vector_to_parameters(theta + way, model.parameters())
    batch = method.get("batch")
    recipe = Recipe(
        optimizer=str(method["optimizer"]),
        batch_size=batch if isinstance(batch, int) else None,
        lr=RATE,
        updates=MOST[task.full],
        target_loss=LEFT * saddle,
        seed=task.seed,
    )
    optimizer = _arriving(model, recipe, way) if "velocity" in method else None
    told = train(model, (inputs, inputs), nn.MSELoss(), recipe, optimizer=optimizer)
    return _told(told, MOST[task.full], saddle)


def _arriving(model: nn.Module, recipe: Recipe, way: Tensor) -> torch.optim.Optimizer:
    """Momentum with a velocity that, on level ground, would carry it along ``way``."""
    parameters = list(model.parameters())
    optimizer = make_optimizer(recipe, parameters, samples=SAMPLES)
    velocity = way * (1 - 0.9) / (0.9 * RATE)
    parts = velocity.split([parameter.numel() for parameter in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        optimizer.state[parameter]["momentum_buffer"] = -part.view_as(parameter).clone()
    return optimizer


def _told(told: Trained, most: int, start: float) -> dict[str, Value]:
    left = told.outcome == "target reached"
    steps = len(told.trace.loss) if left else most
    kept = list(range(0, len(told.trace.loss), max(1, len(told.trace.loss) // 150)))
    return {
        "left": left,
        "steps": steps if left else inf,
        "log_steps": log10(steps),
        "outcome": told.outcome,
        "updates": tuple(float(k) for k in kept),
        "losses": tuple(told.trace.loss[k] / start for k in kept),
    }


class _Coordinate(nn.Module):
    """One parameter x; its output for a sample is x itself."""

    def __init__(self, x: float) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.tensor(x, dtype=torch.float64))

    def forward(self, sample: Tensor) -> Tensor:
        return self.x + 0 * sample


def _height(x: Tensor, slope: Tensor) -> Tensor:
    """Two wells, the right one poor; every sample adds a slope, and their mean is 0."""
    return (x**4 / 4 - x**2 / 2 + TILT * x + slope * x).mean()


def _well(task: Task) -> dict[str, Value]:
    """Start at the bottom of the poor well; has it been left at the end?"""
    draw = task.generator("data")
    half = NOISE * torch.randn(SAMPLES // 2, generator=draw, dtype=torch.float64)
    slopes = torch.cat([half, -half])
    roots = torch.tensor([[0.0, 0.0, -TILT], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    bottom = float(torch.linalg.eigvals(roots).real.max())  # of x³ − x + TILT
    model = _Coordinate(bottom)
    recipe = Recipe(
        batch_size=WELLS[task.arm["well"]], lr=WELL_RATE, updates=MOST[task.full], seed=task.seed
    )
    told = train(model, (slopes, slopes), _height, recipe)
    return {
        "left": float(model.x.detach()) < 0,
        "x": float(model.x.detach()),
        "bottom": bottom,
        "outcome": told.outcome,
    }


def _arm(method: str, saddle: str) -> str:
    return f"{method} at {saddle}"


def _decide(table: Table) -> Decision:
    count = 2 * len(SADDLES)
    effects: list[Effect] = []
    verdicts: list[Verdict] = []
    for saddle in SADDLES:
        for method in ("SGD", "momentum, arriving"):
            effect = paired(
                table,
                "log_steps",
                _arm(method, saddle),
                _arm("gradient descent", saddle),
                name=f"{method} − gradient descent at {saddle}, powers of ten of steps",
                comparisons=count,
            )
            effects.append(effect)
            left = table.column("left", _arm(method, saddle))
            stays = len(left) > 1 and not any(left)
            verdicts.append(Verdict.CONTRADICTED if stays else verdict_of(effect, Side.BELOW))
    told = ". ".join(_sentence(table, saddle) for saddle in SADDLES)
    wells = "; ".join(
        f"{name}, {sum(left):.0f} of {len(left)}"
        for name in WELLS
        if (left := table.column("left", f"poor minimum, {name}"))
    )
    said = f"{told}. The poor minimum was left by: {wells or 'not measured'}."
    return Decision(combined(verdicts), said, tuple(effects))


def _sentence(table: Table, saddle: str) -> str:
    noise = table.mean("noise", _arm(CNC, saddle))
    parts = [
        f"{method}: {format(table.mean('steps', _arm(method, saddle)), ',.0f') if any(left) else 'never'}"
        for method in METHODS
        if (left := table.column("left", _arm(method, saddle)))
    ]
    return f"Updates to leave the saddle {saddle} (noise along the way out {number(noise, 2)}): {'; '.join(parts)}"


def _pictures(table: Table) -> list[Picture]:
    courses = [picture for saddle in SADDLES if (picture := _course(table, saddle)).series]
    return [_leaving(table), *courses] if courses else []


def _leaving(table: Table) -> Picture:
    """The updates of every method at every saddle; who never left has a cross at all that it had."""
    series: list[Series] = []
    stayed: list[Series] = []
    for saddle in SADDLES:
        known = [m for m in METHODS if isfinite(table.mean("steps", _arm(m, saddle)))]
        arms = [_arm(method, saddle) for method in known]
        low, high = table.spread("steps", arms)
        means = tuple(table.mean("steps", arm) for arm in arms)
        name = f"saddle {saddle}"
        series.append(Series(name, tuple(known), means, tuple(low), tuple(high), "points"))
        never = [m for m in METHODS if table.column("left", _arm(m, saddle)) and m not in known]
        most = tuple(10 ** table.mean("log_steps", _arm(method, saddle)) for method in never)
        if never:
            told = f"{name}: never left"
            stayed.append(Series(told, tuple(never), most, kind="points", group=name, variant=1))
    shape = [("gradient descent", 1.0), ("SGD", 0.4), ("momentum, arriving", 0.4)]
    return Picture(
        name="leaving",
        title="Who leaves a saddle, and after how many updates",
        caption="Updates until 5 % of the saddle's loss are gone: means over the seeds that left, the lowest and the highest. A cross: "
        "it never left in as many updates as it had. A saddle is named by the components that it keeps.",
        x="",
        y="updates",
        series=(*series, *stayed),
        claimed=sketch(
            "at any saddle", series, shape, group=series[0].name, kind="points", log_y=True
        ),
        log_y=True,
    )


def _course(table: Table, saddle: str) -> Picture:
    series: list[Series] = []
    for method in METHODS:
        x, y = (table.curves(name, _arm(method, saddle)) for name in ("updates", "losses"))
        if x and y:
            noisy = method == "SGD" and len(y[0]) >= PIECES
            places, heights = (binned(c, PIECES) if noisy else c for c in (x[0], y[0]))
            series.append(Series(method, tuple(1 + place for place in places), heights))
    longest = max((float(one.x[-1]) for one in series), default=1.0)
    leaving = (longest**0.4, longest**0.55, longest**0.6)
    return Picture(
        name=f"saddle-{''.join(map(str, SADDLES[saddle])) or 'zero'}",
        title=f"Leaving the saddle {saddle}",
        caption="The loss over that of the saddle, of the first seed, until 5 % are gone; of SGD the losses of batches, as means of "
        f"{PIECES} pieces.",
        x="update",
        y="loss / the saddle's loss",
        series=tuple(series),
        claimed=(
            Series("gradient descent: stays", (1.0, longest), (1.0, 1.0), group="gradient descent"),
            Series("SGD: leaves", leaving, (1.0, 0.99, LEFT), group="SGD"),
        ),
        log_x=True,
    )


STUDY = Study(
    name="saddle-escape",
    claim="Training that stands at a saddle is carried on by the noise of mini-batches, and by momentum that arrives with a velocity, where "
    "gradient descent stays",
    source="lecture notes on batches and momentum; Jin et al. (2017); Daneshmand et al. (2018)",
    question="From exact saddles of a linear autoencoder, who leaves, and after how many updates?",
    measured="Updates until the loss is 5 % below the saddle's, from three exact saddles (components kept: none, the two of least "
    "variance, "
    "two of the middle), by eight methods; the noise of single samples along the lowest eigenvector; and who leaves a poor minimum "
    "in one dimension",
    rule="For each saddle, SGD and momentum with a velocity against gradient descent, in powers of ten of updates (never = all of them): "
    "contradicted if of one pair no run leaves on any of at least two seeds; supported if every whole interval (corrected for six comparisons) "
    "lies below 0; else inconclusive. Where a method stays because every sample's gradient is 0, that is exact",
    criticism="SGD leaves only where samples' gradients have a part along negative curvature (Daneshmand et al., 2018): at zero weights they have "
    "none. Rounding lets gradient descent leave too, after ln(1/ε)/(η|λ|) updates (compare Lee et al., 2016); noise added on "
    "purpose and negative curvature need no luck (Jin et al., 2017). Noise leaves a minimum only over low walls.",
    arms=_arms,
    measure=_measure,
    decide=_decide,
    pictures=_pictures,
    seeds=(3, 8),
)
