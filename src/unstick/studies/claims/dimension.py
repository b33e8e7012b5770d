"""Minima among critical points, against dimension: fair coins, or a random matrix?"""

from collections.abc import Sequence
from math import exp, log, pi, sqrt

import torch

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
    combined,
    share,
    verdict_of,
)

__all__ = ["STUDY"]

DRAWS = (200_000, 2_000_000)  # matrices of each dimension in all, quick and full
SEEDS = (2, 5)
BLOCK = 50_000
EXACT = {1: 0.5, 2: (2 - sqrt(2)) / 4, 3: (pi - 2 * sqrt(2)) / (4 * pi)}
"""The share of positive definite matrices of the Gaussian orthogonal ensemble, in closed form."""


def _arms(setting: Setting) -> Sequence[Arm]:
    return [Arm(f"d = {d}", {"d": d}) for d in range(1, 7 if setting.full else 6)]


def _measure(task: Task) -> dict[str, int]:
    d, draw = task.arm["d"], task.generator()
    count = DRAWS[task.full] // SEEDS[task.full]
    positive = 0
    for begin in range(0, count, BLOCK):
        size = min(BLOCK, count - begin)
        normal = torch.randn(size, d, d, generator=draw, dtype=torch.float64)
        lowest = torch.linalg.eigvalsh(normal + normal.mT)[:, 0]
        positive += int((lowest > 0).sum())
    return {"d": d, "draws": count, "minima": positive}


def _shares(table: Table) -> list[Effect]:
    found: list[Effect] = []
    for arm in table.arms:
        hits, draws = (int(sum(table.column(name, arm))) for name in ("minima", "draws"))
        found.append(
            share(
                hits,
                draws,
                name=f"minima at {arm}",
                unit="matrices",
                comparisons=max(1, len(table.arms)),
            )
        )
    return found


def _decide(table: Table) -> Decision:
    shares = _shares(table)
    verdicts = [
        verdict_of(effect, Side.BELOW, 0.5**d) for d, effect in enumerate(shares, 1) if d > 1
    ]
    off = [
        d
        for d, exact in EXACT.items()
        if d <= len(shares) and not shares[d - 1].low <= exact <= shares[d - 1].high
    ]
    check = (
        "For d ≤ 3 the closed forms lie inside the intervals."
        if not off
        else f"The closed form is outside the interval at d = {', '.join(map(str, off))}."
    )
    last = shares[-1]
    said = (
        f"At d = {len(shares)}, {number(last.difference, 2)} of random symmetric matrices are positive definite; "
        f"fair coins would give {number(0.5 ** len(shares), 2)}. {check}"
    )
    return Decision(combined(verdicts), said, tuple(shares))


def _pictures(table: Table) -> list[Picture]:
    shares = _shares(table)
    d = tuple(float(k) for k in range(1, len(shares) + 1))
    return [
        Picture(
            name="dimension",
            title="Minima are rarer than fair coins say",
            caption="The share of symmetric matrices with independent Gaussian entries whose eigenvalues are all positive, with "
            "exact intervals, beside 2⁻ᵈ and the asymptotic rate exp(−(ln 3/4)·d²), scaled to d = 1.",
            x="dimension d",
            y="share of minima",
            series=(
                Series(
                    "measured",
                    d,
                    tuple(one.difference for one in shares),
                    tuple(one.low for one in shares),
                    tuple(one.high for one in shares),
                    "points",
                ),
                Series("fair coins, 2⁻ᵈ", d, tuple(0.5**k for k in d)),
                Series(
                    "asymptotic rate",
                    d,
                    tuple(0.5 * exp(-log(3) / 4 * (k * k - 1)) for k in d),
                ),
            ),
            claimed=(Series("2⁻ᵈ", d, tuple(0.5**k for k in d), group="fair coins, 2⁻ᵈ"),),
            log_y=True,
        )
    ]


STUDY = Study(
    name="dimension",
    claim="In d dimensions a critical point is a minimum with probability 2⁻ᵈ or less, so that local minima are rare where there "
    "are many parameters",
    source="lecture notes on critical points; Dauphin et al. (2014)",
    question="How often are all eigenvalues of a random symmetric matrix positive, against d?",
    measured="The share of matrices of the Gaussian orthogonal ensemble that are positive definite, by their eigenvalues",
    rule="Supported if for every d ≥ 2 the whole interval lies below 2⁻ᵈ; contradicted if it lies above for one d",
    criticism="A Hessian of a network is no random matrix: at low loss its spectrum is shifted to the positive side, so neither "
    "number applies there (Bray and Dean, 2007; Pennington and Bahri, 2017).",
    arms=_arms,
    measure=_measure,
    decide=_decide,
    pictures=_pictures,
    seeds=SEEDS,
)
