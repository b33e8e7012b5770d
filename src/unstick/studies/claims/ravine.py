"""Five optimizers in ravines of growing steepness, against two closed forms."""

from collections.abc import Sequence
from math import inf, isfinite, log10, pi, sqrt

import torch
from torch import Tensor

from unstick.record import number
from unstick.studies.frame import (
    Arm,
    Decision,
    Effect,
    Picture,
    Row,
    Series,
    Setting,
    Side,
    Study,
    Table,
    Task,
    combined,
    paired,
    verdict_of,
)
from unstick.studies.frame.table import Value
from unstick.training.optimizers import OPTIMIZERS
from unstick.training.rules import RULES

__all__ = ["STUDY"]

NAMES = {
    "gradient-descent": "gradient descent",
    "heavy-ball": "momentum",
    "adagrad": "AdaGrad",
    "rmsprop": "RMSProp",
    "adam": "Adam",
}
ADAPTIVE = ("adagrad", "rmsprop", "adam")
GOAL = 1e-6  # of the start's loss, at which an optimizer has arrived …
STAYS = 20  # … once the loss has stayed there so many steps: who only flies past has not
MOST = 60_000  # steps at most
RATES = 21  # of every adaptive optimizer, from 1e-4 to 10 times the start's distance
WINDOW = 400  # steps over which a closed form is checked


def _arms(setting: Setting) -> Sequence[Arm]:
    powers = (2.0, 2.5, 3.0, 3.5, 4.0) if setting.full else (2.0, 3.0, 4.0)
    along = [
        Arm(f"{NAMES[name]}, κ = {10**p:,.0f}", {"optimizer": name, "power": p, "angle": 0.0})
        for name in NAMES
        for p in powers
    ]
    turned = [
        Arm(
            f"{NAMES[name]}, κ = {10**p:,.0f}, turned",
            {"optimizer": name, "power": p, "angle": pi / 4},
        )
        for name in ADAPTIVE
        for p in ((2.0, 3.0, 4.0) if setting.full else (2.0, 3.0))
    ]
    return along + turned


def _measure(task: Task) -> dict[str, Value]:
    name, kappa = task.arm["optimizer"], 10.0 ** task.arm["power"]
    angle = 2 * pi * torch.rand(1, generator=task.generator(), dtype=torch.float64)
    start = torch.cat([angle.cos(), angle.sin()])
    rates, momentum = _rates(name, kappa)
    steps = _steps(name, kappa, task.arm["angle"], start, rates, momentum)
    best = int(steps.argmin())
    found = float(steps[best])
    return {
        "kappa": kappa,
        "steps": found,
        "log_steps": log10(found) if isfinite(found) else inf,
        "rate": float(rates[best]),
        "edge": best in (0, len(rates) - 1) and len(rates) > 1,
        "kept": _kept(name, kappa, start, rates, momentum) if len(rates) == 1 else None,
        "exact": _closed_form(name, kappa),
    }


def _rates(name: str, kappa: float) -> tuple[Tensor, float]:
    """Polyak's best settings where they are known, else a grid; the curvatures are 1 and κ."""
    root = sqrt(kappa)
    if name == "gradient-descent":
        return torch.tensor([2 / (1 + kappa)], dtype=torch.float64), 0.0
    if name == "heavy-ball":
        return torch.tensor([4 / (1 + root) ** 2], dtype=torch.float64), (
            (root - 1) / (root + 1)
        ) ** 2
    return torch.logspace(-4, 1, RATES, dtype=torch.float64), 0.0


def _closed_form(name: str, kappa: float) -> float | None:
    root = sqrt(kappa)
    forms = {"gradient-descent": 1 - 2 / (kappa + 1), "heavy-ball": (root - 1) / (root + 1)}
    return forms.get(name)


class _Walk:
    """One optimizer at many rates at once on ½(x² + κy²), turned by an angle."""

    def __init__(
        self, name: str, kappa: float, angle: float, start: Tensor, rates: Tensor, momentum: float
    ) -> None:
        turn = torch.tensor(angle, dtype=torch.float64)
        c, s = turn.cos(), turn.sin()
        self.turn = torch.stack([torch.stack([c, -s]), torch.stack([s, c])])
        self.curvature = torch.tensor([1.0, kappa], dtype=torch.float64)
        self.H = self.turn @ torch.diag(self.curvature) @ self.turn.T
        self.theta = (self.turn @ start).expand(len(rates), 2).clone()
        self.rule = RULES[name]
        self.memory = {slot: torch.zeros_like(self.theta) for slot in self.rule.memory}
        defaults = OPTIMIZERS[name].defaults
        self.settings = {**defaults, "momentum": momentum, "lr": rates.unsqueeze(1)}
        self.done = 0

    def step(self) -> None:
        self.rule.step(self.theta, self.theta @ self.H, self.memory, self.settings, self.done)
        self.done += 1

    def losses(self) -> Tensor:
        """Shape [rates]."""
        return 0.5 * ((self.theta @ self.turn) ** 2 @ self.curvature)


def _steps(
    name: str, kappa: float, angle: float, start: Tensor, rates: Tensor, momentum: float
) -> Tensor:
    """The step after which each rate has arrived; inf where none has within the steps there are."""
    walk = _Walk(name, kappa, angle, start, rates, momentum)
    goal = GOAL * walk.losses()
    last = torch.zeros(len(rates), dtype=torch.float64)  # the last step above the goal
    while walk.done < MOST:
        walk.step()
        away = ~(walk.losses() <= goal)
        last[away] = walk.done
        if int(walk.done - last.min()) >= STAYS:  # the fastest has arrived, and no other can win
            break
    arrived = walk.done - last >= STAYS
    return torch.where(arrived, last + 1, torch.inf)


def _kept(name: str, kappa: float, start: Tensor, rates: Tensor, momentum: float) -> float:
    """The factor by which a step shrinks the distance, over as many steps as it takes to be in the final regime."""
    walk = _Walk(name, kappa, 0.0, start, rates, momentum)
    for _ in range(WINDOW):
        walk.step()
    early = float(torch.linalg.vector_norm(walk.theta))
    for _ in range(WINDOW):
        walk.step()
    return (float(torch.linalg.vector_norm(walk.theta)) / early) ** (1 / WINDOW)


def _growths(table: Table) -> list[Effect]:
    """By how many powers of ten the steps of gradient descent grow more than those of each adaptive optimizer."""
    ends = {
        name: [
            arm
            for arm in table.arms
            if _knob(table, arm, "optimizer") == name and not _turned(table, arm)
        ]
        for name in NAMES
    }
    grown = _grown(table, {NAMES[name]: (arms[0], arms[-1]) for name, arms in ends.items() if arms})
    return [
        paired(
            grown,
            "grown",
            NAMES["gradient-descent"],
            NAMES[name],
            name=f"growth of steps, gradient descent − {NAMES[name]}, powers of ten",
            comparisons=len(ADAPTIVE),
        )
        for name in ADAPTIVE
    ]


def _grown(table: Table, ends: dict[str, tuple[str, str]]) -> Table:
    rows: list[Row] = []
    for name, (gentle, steep) in ends.items():
        few, many = table.by_seed("log_steps", gentle), table.by_seed("log_steps", steep)
        rows += [
            Row(name, seed, {"grown": many[seed] - few[seed]}, 0.0)
            for seed in sorted(few.keys() & many.keys())
        ]
    return Table(tuple(rows), tuple(ends), {})


def _knob(table: Table, arm: str, knob: str) -> object:
    return table.knobs.get(arm, {}).get(knob)


def _turned(table: Table, arm: str) -> bool:
    return bool(_knob(table, arm, "angle"))


def _decide(table: Table) -> Decision:
    effects = _growths(table)
    off = [
        abs(kept - exact)
        for arm in table.arms
        for kept, exact in zip(table.column("kept", arm), table.column("exact", arm), strict=True)
        if isfinite(kept) and isfinite(exact)
    ]
    plain = "; ".join(_told(table, name) for name in NAMES)
    across = "; ".join(_told(table, name, turned=True) for name in ADAPTIVE)
    said = (
        f"Steps through the steepest ravine measured: {plain}. Turned by 45° against the axes, the steepest: {across}. "
        "The factors by which a step of gradient descent and of "
        f"momentum shrinks the distance are within {number(max(off, default=inf))} of their closed forms."
    )
    verdicts = [verdict_of(effect, Side.ABOVE) for effect in effects]
    return Decision(combined(verdicts), said, tuple(effects))


def _arms_of(table: Table, name: str, turned: bool) -> list[str]:
    return [
        arm
        for arm in table.arms
        if _knob(table, arm, "optimizer") == name and _turned(table, arm) == turned
    ]


def _told(table: Table, name: str, *, turned: bool = False) -> str:
    arms = _arms_of(table, name, turned)
    steps = table.column("steps", arms[-1]) if arms else []
    lost = sum(not isfinite(one) for one in steps)
    if not steps:
        return f"{NAMES[name]} not measured"
    late = f", {lost} of {len(steps)} starts not in {MOST:,}" if lost else ""
    return f"{NAMES[name]} {table.mean('steps', arms[-1]):,.0f}{late}"


def _series(table: Table, name: str, turned: bool) -> Series:
    arms = [arm for arm in _arms_of(table, name, turned) if table.column("steps", arm)]
    low, high = table.spread("steps", arms)
    return Series(
        NAMES[name] + (", turned" if turned else ""),
        tuple(table.column("kappa", arm)[0] for arm in arms),
        tuple(table.mean("steps", arm) for arm in arms),
        tuple(low),
        tuple(high),
        group=NAMES[name],
        variant=int(turned),
    )


def _pictures(table: Table) -> list[Picture]:
    series = [_series(table, name, turned) for turned in (False, True) for name in NAMES]
    series = [one for one in series if one.x]
    plain = [one for one in series if one.name == NAMES["gradient-descent"]]
    claimed: tuple[Series, ...] = ()
    if plain:
        x = tuple(float(k) for k in plain[0].x)
        first = plain[0].y[0]
        rising = tuple(first * k / x[0] for k in x)
        claimed = (
            Series("one rate: in proportion to κ", x, rising, group=plain[0].name),
            Series(
                "a rate for each: the same", x, tuple(first / 3 for _ in x), group=NAMES["adam"]
            ),
        )
    return [
        Picture(
            name="steps",
            title="Steps through a ravine",
            caption=f"Steps until the loss ½(x² + κy²) has fallen to {GOAL:g} of its start and stays there; gradient descent and momentum "
            "with Polyak's best settings, the others at the fastest of their rates; means, lowest and highest over starts. "
            "Dashed, turned: the ravine lies at 45° to the axes.",
            x="steepness κ",
            y="steps",
            series=tuple(series),
            claimed=claimed,
            log_x=True,
            log_y=True,
        )
    ]


STUDY = Study(
    name="ravine",
    claim="In a ravine gradient descent needs steps in proportion to its steepness κ, whatever the rate; optimizers with a rate for each "
    "parameter, AdaGrad, RMSProp and Adam, hardly need more in a steeper one",
    source="lecture notes on adaptive learning rates; Polyak (1964); Duchi et al. (2011); Kingma and Ba (2015)",
    question="How do the steps of five optimizers grow with the condition number of a quadratic?",
    measured="Steps until ½(x² + κy²) has fallen to a millionth of its start, from random directions; the best rate of a grid for adaptive "
    "optimizers, the known best settings for gradient descent and momentum; the factor by which a step shrinks the distance",
    rule="The growth of the steps (in powers of ten) from the gentlest to the steepest ravine: supported if gradient descent's is larger than "
    "that of each of the three adaptive optimizers, the whole interval (corrected for three comparisons) above 0; contradicted if one "
    "whole interval lies below 0; else inconclusive",
    criticism="A rate for each parameter helps only where the ravine lies along the axes: turned by 45°, the same optimizers see equal "
    "gradients in both parameters. And a quadratic is solved in two steps by methods that use its curvature (Nocedal and Wright, 2006).",
    arms=_arms,
    measure=_measure,
    decide=_decide,
    pictures=_pictures,
    seeds=(3, 8),
)
