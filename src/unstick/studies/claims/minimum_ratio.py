"""The minimum ratio against the training loss, where every point says whether it is critical at all."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite, nan, sin

import numpy as np
import torch
from torch import Tensor, nn

from unstick.critical.finding import find_critical_points
from unstick.critical.found import OUTCOMES
from unstick.data import Dataset
from unstick.problem.problem import Problem
from unstick.record import number
from unstick.studies.frame import (
    Arm,
    Decision,
    Picture,
    Series,
    Setting,
    Study,
    Table,
    Task,
    Verdict,
    share,
)
from unstick.studies.frame.comparing import Side, side_of
from unstick.studies.frame.table import Value
from unstick.studies.measures.classes import classified
from unstick.training import Recipe, train

__all__ = ["STUDY"]

DECAYS = (0.0, 0.01)  # adds ½·decay·‖θ‖² to the loss
UPDATES = ((0, 30, 2000), (0, 3, 10, 30, 100, 300, 1000, 3000))  # of Adam, before a search starts
SAMPLES = (300, 600)
STEPS = (40, 80)  # of Levenberg-Marquardt on ½‖g‖²
RATE = 0.02
FEATURES = 16
LEAST = 1e-40  # of ‖g‖² that is drawn
EXACT = 500  # parameters up to which Hessians are written down
GROUPS = {"neither": "@muted"}  # what is critical, or flat, stands out
PLACES = ("loss", "ratio", "negative", "zero", "square", "class", "updates")


def _arms(_setting: Setting) -> Sequence[Arm]:
    return [Arm("with L2" if decay else "without L2", {"decay": decay}) for decay in DECAYS]


def _measure(task: Task) -> dict[str, Value]:
    data = _reduced(task, classified(task, "digits", SAMPLES[task.full]))
    model = task.network("4", data, activation="tanh").double()
    samples = (data.train_inputs.double(), data.train_targets)
    decay: float = task.arm["decay"]
    problem = Problem(model, samples, nn.functional.cross_entropy, weight_decay=decay)
    updates = UPDATES[task.full]
    starts = _visited(model, problem, samples, updates, decay, task.seed)
    search = find_critical_points(
        problem,
        starts,
        method="levenberg-marquardt" if problem.n <= EXACT else "newton-mr",
        steps=STEPS[task.full],
        seed=task.seed,
    )
    founds = search.founds
    counts = [found.inertia or (nan, nan, nan) for found in founds]
    return {
        "parameters": problem.n,
        **{f"{outcome} ends": count for outcome, count in search.counts.items()},
        "loss": tuple(found.loss for found in founds),
        "ratio": tuple(
            nan if found.minimum_ratio is None else found.minimum_ratio for found in founds
        ),
        "negative": tuple(float(negative) for _, _, negative in counts),
        "zero": tuple(float(zero) for _, zero, _ in counts),
        "square": tuple(found.gradient_norm_squared for found in founds),
        "class": tuple(float(OUTCOMES.index(found.outcome)) for found in founds),
        "start_loss": tuple(found.start_loss for found in founds),
        "updates": tuple(float(count) for count in updates),
    }


def _reduced(task: Task, data: Dataset) -> Dataset:
    """So few inputs that every eigenvalue can be known: digits in 4 × 4 pixels, of other data the principal components."""
    if ".py:" in (task.setting.model or ""):
        return data  # a model of one's own takes what it takes
    train, test = data.train_inputs.flatten(1), data.test_inputs.flatten(1)
    if task.setting.data is None:
        raw = task.data("digits")
        pooled = replace(
            raw, train_inputs=_pooled(raw.train_inputs), test_inputs=_pooled(raw.test_inputs)
        )
        rows = torch.randperm(len(pooled.train_inputs), generator=task.generator("samples"))
        kept = rows[: len(train)].sort().values
        return replace(
            pooled,
            train_inputs=pooled.train_inputs[kept],
            train_targets=pooled.train_targets[kept],
        ).standardized()
    if train.shape[1] <= FEATURES:
        return replace(data, train_inputs=train, test_inputs=test)
    _, _, V = torch.linalg.svd(train.double(), full_matrices=False)
    basis = V[:FEATURES].T.to(train)
    return replace(data, train_inputs=train @ basis, test_inputs=test @ basis).standardized()


def _pooled(images: Tensor) -> Tensor:
    return images.reshape(-1, 4, 2, 4, 2).mean((2, 4)).flatten(1)


def _visited(
    model: nn.Module,
    problem: Problem,
    samples: tuple[Tensor, Tensor],
    updates: Sequence[int],
    decay: float,
    seed: int,
) -> Tensor:
    """Where Adam is after so many updates on all samples, [len(updates), n]."""
    adam = torch.optim.Adam(model.parameters(), RATE, weight_decay=decay)
    points: list[Tensor] = []
    done = 0
    for count in updates:
        if count > done:
            recipe = Recipe(
                optimizer="adam", lr=RATE, batch_size=None, updates=count - done, seed=seed
            )
            train(model, samples, nn.functional.cross_entropy, recipe, optimizer=adam)
            done = count
        points.append(problem.parameters())
    return torch.stack(points)


@dataclass(frozen=True, slots=True)
class _End:
    """Where one search ended."""

    loss: float
    ratio: float
    negative: float
    zero: float
    square: float
    kind: str
    late: bool  # from the longest training of its run

    @property
    def strict(self) -> bool:
        """A minimum that second derivatives prove: critical, and every eigenvalue positive."""
        return self.kind == "critical" and self.negative == 0 and self.zero == 0


def _ends(table: Table, arm: str) -> list[_End]:
    found: list[_End] = []
    for columns in zip(*(table.curves(name, arm) for name in PLACES), strict=True):
        last = max(columns[-1], default=0.0)
        found += [
            _End(loss, ratio, negative, zero, square, OUTCOMES[int(kind)], count == last)
            for loss, ratio, negative, zero, square, kind, count in zip(*columns, strict=True)
        ]
    return found


def _decide(table: Table) -> Decision:
    everywhere = {arm: _ends(table, arm) for arm in table.arms}
    late = [end for end in everywhere.get("with L2", []) if end.late]
    minima = share(
        sum(end.strict for end in late),
        len(late),
        name="strict minima among the ends of converged runs with L2",
        unit="runs",
    )
    side = side_of(minima, 0.5)
    verdicts = {Side.ABOVE: Verdict.CONTRADICTED, Side.BELOW: Verdict.SUPPORTED}
    told: list[str] = []
    for arm, ends in everywhere.items():
        if ends:
            counts = ", ".join(f"{sum(e.kind == kind for e in ends)} {kind}" for kind in OUTCOMES)
            critical = [end for end in ends if end.kind == "critical"]
            ratios = [end.ratio for end in ends if isfinite(end.ratio)]
            correlations = [
                f"{number(value, 2)} over {name}"
                for name, value in (
                    ("all points", _correlation(ends)),
                    ("the critical ones", _correlation(critical)),
                )
                if isfinite(value)
            ]
            told.append(
                f"{arm[:1].upper()}{arm[1:]}: {counts}; minimum ratio {number(min(ratios, default=nan), 3)} to {number(max(ratios, default=nan), 3)}; "
                f"correlation with the loss {' and '.join(correlations) or 'unknown'}"
            )
    said = (
        f"{'. '.join(told)}. After the longest training with L2, {sum(e.strict for e in late)} of {len(late)} searches end at a strict "
        "minimum: critical, and all eigenvalues positive."
    )
    return Decision(verdicts.get(side, Verdict.INCONCLUSIVE), said, (minima,))


def _correlation(ends: Sequence[_End]) -> float:
    """Pearson's, of minimum ratio and loss; nan where one of them does not vary."""
    known = [(end.loss, end.ratio) for end in ends if isfinite(end.loss) and isfinite(end.ratio)]
    if len(known) < 3 or min(np.ptp(column) for column in zip(*known, strict=True)) == 0:
        return nan
    return float(np.corrcoef(np.array(known).T)[0, 1])


def _pictures(table: Table) -> list[Picture]:
    ratio: list[Series] = []
    square: list[Series] = []
    for kind in reversed(OUTCOMES):  # the critical ones above the others
        for variant, arm in enumerate(
            reversed(table.arms)
        ):  # with L2, which has minima, as circles
            ends = [end for end in _ends(table, arm) if end.kind == kind]
            if ends:
                loss = tuple(end.loss for end in ends)
                for series, y in (
                    (ratio, tuple(end.ratio for end in ends)),
                    (square, tuple(max(end.square, LEAST) for end in ends)),
                ):
                    name = f"{kind}, {arm}"
                    series.append(
                        Series(
                            name,
                            loss,
                            y,
                            kind="points",
                            group=GROUPS.get(kind, kind),
                            variant=variant,
                        )
                    )
    if not ratio:
        return []
    worst = max(max(float(x) for x in series.x) for series in ratio)
    falling = [k / 30 for k in range(31)]
    return [
        Picture(
            name="minimum-ratio",
            title="Minimum ratio against training loss",
            caption="Each point is where one search for a critical point ended; its minimum ratio is the share of positive eigenvalues, 1 at a "
            "strict minimum. Only points called critical are; a gradient-flat one has its gradient in the kernel of the Hessian.",
            x="training loss",
            y="minimum ratio",
            series=tuple(ratio),
            claimed=(
                Series(
                    "critical points, as the notes have them",
                    tuple(worst * part for part in falling),
                    tuple(0.6 - 0.2 * part + 0.02 * sin(40 * part) for part in falling),
                    kind="points",
                    group="critical",
                ),
            ),
        ),
        Picture(
            name="gradient",
            title="How critical the points are",
            caption="The squared length of the gradient at the same points.",
            x="training loss",
            y="‖g‖²",
            series=tuple(square),
            log_y=True,
        ),
    ]


STUDY = Study(
    name="minimum-ratio",
    claim="Where training stops there are always directions down: the minimum ratio rises as the loss falls but stays about a half, so "
    "that one almost never stands at a local minimum",
    source="lecture notes on critical points; Dauphin et al. (2014)",
    question="Of which kind are the points at which searches for critical points end, from all along a training, and of which are they "
    "after a training that has converged?",
    measured=f"Adam on a tanh network of 4 hidden units and {SAMPLES[0]} or, in full, {SAMPLES[1]} samples of digits in 4 × 4 pixels; "
    "from several places of it Levenberg-Marquardt on ½‖g‖²; of each end the loss, "
    "‖g‖², all eigenvalues of the dense Hessian in float64 with the rounding that counts as zero, and whether it is critical, "
    "gradient-flat or neither; with and without L2",
    rule="Of the ends after the longest training with L2, one a seed, the share of strict minima (critical, no eigenvalue negative or "
    "zero) with its exact interval: wholly above ½ contradicts the claim, wholly below supports it, else inconclusive",
    criticism="A falling curve appears whether or not its points are critical, and searches often end where the gradient lies in the "
    "kernel of the Hessian instead (Frye et al., 2021); a ratio that counts zero eigenvalues as not positive mixes flat with downward, "
    "and without L2 symmetries and losses that never vanish leave no strict minima at all.",
    arms=_arms,
    measure=_measure,
    decide=_decide,
    pictures=_pictures,
    seeds=(6, 10),
    takes=("data", "model"),
)
