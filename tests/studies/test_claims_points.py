"""Studies of points and of the ways to them: closed forms, rules on planted tables, whole runs that lack something."""

from dataclasses import replace
from math import ceil, inf, log, log10, nan, sqrt

import numpy as np
import pytest
import torch
from torch import nn

from unstick.problem.problem import Problem
from unstick.studies.claims import (
    endpoints,
    momentum,
    ravine,
    saddle_escape,
    starts,
    stuck_not_critical,
    taylor,
    toy_net,
)
from unstick.studies.frame import Row, Setting, Table, Task, Verdict, within
from unstick.studies.measures.sample import loss_for, part

pytestmark = pytest.mark.slow

MODULES = (toy_net, ravine, saddle_escape, starts, endpoints, taylor, momentum, stuck_not_critical)
STUDIES = [module.STUDY for module in MODULES]
CHEAP = {
    "toy-net": "minimum (2, ½)",
    "ravine": "AdaGrad, κ = 100",
    "saddle-escape": "momentum from beside at {0, 1}",
    "starts": "width 4",
    "endpoints": "SGD",
    "taylor": "after 30 updates",
    "momentum": "dip, momentum",
    "stuck-not-critical": "rate too large",
}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Trainings of a few updates."""
    monkeypatch.setattr(starts, "UPDATES", (20, 20))
    monkeypatch.setattr(endpoints, "UPDATES", (20, 20))
    monkeypatch.setattr(endpoints, "EPOCHS", (1, 1))
    monkeypatch.setattr(stuck_not_critical, "UPDATES", (20, 20))
    for module in (starts, endpoints, taylor, momentum, stuck_not_critical):
        monkeypatch.setattr(module, "SAMPLES", 40)
    monkeypatch.setattr(endpoints, "HIDDEN", "1")
    monkeypatch.setattr(stuck_not_critical, "HIDDEN", "1")


def task(module, name, seed=0, **setting):
    chosen = Setting(**setting)
    arm = next(arm for arm in module.STUDY.arms(chosen) if arm.name == name)
    return Task(arm, seed, chosen)


def measured(module, name, seed=0, **setting):
    return module.STUDY.measure(task(module, name, seed, **setting))


def planted(module, values, seeds=4):
    """A table of the study's arms: ``values`` of an arm, one dict, or one a seed."""
    arms = module.STUDY.arms(Setting())
    rows = [
        Row(arm.name, seed, found[seed] if isinstance(found, list) else found, 0.0)
        for arm in arms
        if (found := values(arm)) is not None
        for seed in range(seeds)
    ]
    return Table(tuple(rows), tuple(arm.name for arm in arms), {a.name: a.knobs for a in arms})


def verdict(module, values, seeds=4):
    return module.STUDY.decide(planted(module, values, seeds)).verdict


def jitter(value, width=0.01):
    """Four seeds about a value."""
    return [value + width * k for k in (-1.5, -0.5, 0.5, 1.5)]


# Every study


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_a_study_states_its_claim_and_its_criticism_and_does_more_in_full(study):
    quick, full = ({arm.name for arm in study.arms(Setting(full=full))} for full in (False, True))

    assert quick <= full
    assert len(quick) == len(study.arms(Setting()))
    assert study.seeds[0] >= 3
    assert study.seeds[1] >= 8
    assert "lecture notes" in study.source
    assert all((study.claim, study.question, study.measured, study.rule, study.criticism))


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.STUDY.name)
def test_one_arm_gives_equal_numbers_twice_and_alone_decides_nothing(module):
    study = module.STUDY
    name = CHEAP[study.name]
    first, second = measured(module, name), measured(module, name)
    arms = study.arms(Setting())
    partial = Table(
        (Row(name, 0, first, 0.1), Row(name, 1, {}, 0.1, failed="a reason")),
        tuple(arm.name for arm in arms),
        {arm.name: arm.knobs for arm in arms},
    )

    assert first.keys() == second.keys()
    for (
        key,
        value,
    ) in first.items():  # which way Hessian products go is timed; ways differ in rounding
        assert second[key] == (
            value
            if isinstance(value, str | None)
            else pytest.approx(value, rel=1e-6, abs=1e-12, nan_ok=True)
        ), key
    assert study.decide(partial).verdict == Verdict.INCONCLUSIVE
    for picture in study.pictures(partial):
        assert all(len(one.x) == len(one.y) for one in (*picture.series, *picture.claimed))


@pytest.mark.parametrize(
    "module", [starts, endpoints, taylor, momentum, stuck_not_critical], ids=lambda m: m.STUDY.name
)
def test_a_users_data_are_taken(module, monkeypatch):
    monkeypatch.setattr(momentum, "RATES", (0.1,))
    name = {"momentum": "network, none"}.get(module.STUDY.name, CHEAP[module.STUDY.name])

    values = measured(module, name, data="iris")

    assert values
    assert values != measured(module, name)
    assert "data" in module.STUDY.takes


# toy-net


@pytest.mark.parametrize("seed", [0, 1])
def test_the_toy_nets_eigenvalues_are_their_closed_forms(seed):
    saddle = measured(toy_net, "the origin", seed)
    drawn = measured(toy_net, "a drawn minimum", seed)
    w, v = drawn["w1"], drawn["w2"]

    assert (saddle["lowest"], saddle["highest"]) == pytest.approx((-2, 2), abs=1e-12)
    assert saddle["gradient_norm"] == 0
    assert saddle["alignment"] == pytest.approx(1)
    assert saddle["along"] == pytest.approx([(1 - s * s) ** 2 for s in saddle["s"]], abs=1e-12)
    assert saddle["taylor"] == pytest.approx([1 - 2 * s * s for s in saddle["s"]], abs=1e-12)
    assert drawn["lowest"] == pytest.approx(0, abs=1e-12)
    assert drawn["highest"] == pytest.approx(2 * (w * w + v * v), rel=1e-12)
    assert saddle["ratio"] == drawn["ratio"] == 0.5


def test_descent_in_the_toy_net_ends_where_the_product_is_one():
    end = measured(toy_net, "descent from a random start")

    assert end["w1"] * end["w2"] == pytest.approx(1, abs=1e-9)
    assert end["highest"] < 2 / toy_net.RATE


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, Verdict.SUPPORTED),
        ({"kind": "minimum"}, Verdict.CONTRADICTED),
        ({"lowest": -1.9}, Verdict.CONTRADICTED),
        ({"after": 1.0}, Verdict.CONTRADICTED),
    ],
)
def test_the_toy_nets_rule(changed, expected):
    right = {
        "kind": "saddle",
        "lowest": -2.0,
        "highest": 2.0,
        "alignment": 1.0,
        "loss": 1.0,
        "after": 0.1,
    }

    assert (
        verdict(toy_net, lambda arm: right | changed if arm.name == "the origin" else None)
        == expected
    )


# ravine


@pytest.mark.parametrize("kappa", [100, 1000])
def test_gradient_descent_in_a_ravine_takes_the_steps_that_its_closed_form_says(kappa):
    values = measured(ravine, f"gradient descent, κ = {kappa:,}", seed=3)
    kept = 1 - 2 / (kappa + 1)

    assert values["kept"] == pytest.approx(kept, rel=1e-9)
    assert values["steps"] == ceil(log(ravine.GOAL) / (2 * log(kept)))


def test_the_heavy_ball_keeps_its_closed_form_and_a_little_for_the_double_root():
    kept = measured(ravine, "momentum, κ = 100")["kept"]

    assert 9 / 11 < kept < 9 / 11 * 2 ** (2 / ravine.WINDOW)


def test_an_adaptive_optimizer_arrives_in_the_step_in_which_torchs_does():
    one = task(ravine, "Adam, κ = 100")
    values = ravine.STUDY.measure(one)
    angle = 2 * np.pi * torch.rand(1, generator=one.generator(), dtype=torch.float64)
    theta = nn.Parameter(torch.cat([angle.cos(), angle.sin()]))
    optimizer = torch.optim.Adam([theta], lr=values["rate"])
    losses = []
    for _ in range(int(values["steps"]) + 1):
        loss = 0.5 * (theta[0] ** 2 + 100 * theta[1] ** 2)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    assert losses[-1] <= ravine.GOAL * losses[0] < losses[-2]


@pytest.mark.parametrize(
    ("plain", "adaptive", "expected"),
    [
        (1.0, 0.1, Verdict.SUPPORTED),
        (0.1, 1.0, Verdict.CONTRADICTED),
        (1.0, 1.0, Verdict.INCONCLUSIVE),
    ],
)
def test_the_ravines_rule(plain, adaptive, expected):
    def values(arm):
        growth = plain if arm["optimizer"] == "gradient-descent" else adaptive
        noise = jitter(0.0) if arm["optimizer"] == "adam" else [0.0] * 4
        steps = [growth * arm["power"] + extra * arm["power"] for extra in noise]
        return [{"log_steps": s, "steps": 10**s, "kappa": 10.0 ** arm["power"]} for s in steps]

    assert verdict(ravine, values) == expected


# saddle-escape


@pytest.mark.parametrize("saddle", saddle_escape.SADDLES)
def test_the_autoencoder_stands_at_an_exact_saddle(saddle):
    model, inputs = saddle_escape._saddle(task(saddle_escape, f"SGD at {saddle}"))
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])

    def loss(flat):
        first, second = flat[:16].reshape(2, 8), flat[16:].reshape(8, 2)
        return ((inputs - inputs @ first.T @ second.T) ** 2).mean()

    kept = saddle_escape.SADDLES[saddle]
    slope = torch.autograd.functional.jacobian(loss, weights)
    lowest = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, weights))[0]
    values = measured(saddle_escape, f"{saddle_escape.CNC} at {saddle}")

    assert slope.abs().max() < 1e-12
    assert loss(weights) == pytest.approx(sum(k + 1 for k in range(8) if k not in kept) / 8)
    assert values["lowest"] == pytest.approx(float(lowest), rel=1e-4)
    assert (values["noise"] == 0) == (saddle == "all zero")


def test_at_zero_weights_no_batch_has_a_gradient_and_sgd_stays_bit_for_bit(monkeypatch):
    monkeypatch.setattr(saddle_escape, "MOST", (50, 50))

    stayed = measured(saddle_escape, "SGD at all zero")
    arrived = measured(saddle_escape, "momentum, arriving at all zero")

    assert not stayed["left"]
    assert stayed["steps"] == inf
    assert stayed["log_steps"] == log10(50)
    assert arrived["left"]
    assert arrived["steps"] < 50


def test_full_gradients_stay_in_the_poor_well(monkeypatch):
    monkeypatch.setattr(saddle_escape, "MOST", (200, 200))
    values = measured(saddle_escape, "poor minimum, full gradients")
    x = values["bottom"]

    assert x**3 - x + saddle_escape.TILT == pytest.approx(0, abs=1e-12)
    assert x > 0
    assert values["x"] == pytest.approx(x, abs=1e-9)
    assert not values["left"]


@pytest.mark.parametrize(
    ("sgd", "left", "expected"),
    [
        (2.0, True, Verdict.SUPPORTED),
        (3.4, True, Verdict.INCONCLUSIVE),
        (4.2, True, Verdict.CONTRADICTED),
        (3.0, False, Verdict.CONTRADICTED),
    ],
)
def test_the_rule_on_saddles(sgd, left, expected):
    def values(arm):
        if "well" in arm.knobs or arm["method"] == saddle_escape.CNC:
            return None
        if arm["method"] == "SGD":
            return [{"log_steps": s, "left": left} for s in jitter(sgd)]
        if arm["method"] == "momentum, arriving":
            return {"log_steps": 1.5, "left": True}
        return [{"log_steps": s, "left": True} for s in reversed(jitter(3.4))]

    assert verdict(saddle_escape, values) == expected


# starts


def test_starts_trained_together_end_where_each_does_alone():
    tasks = [task(starts, name, seed) for seed in (0, 1) for name in ("width 2", "width 4")]

    together = {(one.arm.name, one.seed): found for one, found in starts.STUDY.together(tasks)}

    assert len(together) == 4
    for one in tasks:
        alone = starts.STUDY.measure(one)
        assert together[one.arm.name, one.seed]["losses"] == pytest.approx(
            alone["losses"], rel=1e-4
        )


@pytest.mark.parametrize(
    ("narrow", "wide", "expected"),
    [
        ([0.1, 1.0, 1.0, 1.0, 1.0, 1.0], [0.0] * 6, Verdict.SUPPORTED),
        ([0.0] * 6, [0.1, 1.0, 1.0, 1.0, 1.0, nan], Verdict.CONTRADICTED),
        ([0.1, 0.11, 0.11, 0.11, 0.11, 1.0], [0.0] * 6, Verdict.INCONCLUSIVE),
    ],
)
def test_the_rule_on_starts(narrow, wide, expected):
    def values(arm):
        losses = {2: narrow, 32: wide}.get(arm["width"])
        return None if losses is None else [{"loss": loss, "first": 2.3} for loss in losses]

    assert verdict(starts, values, seeds=6) == expected


# endpoints


@pytest.mark.parametrize(
    ("full", "noisy", "expected"),
    [
        ("saddle", "minimum", Verdict.SUPPORTED),
        ("minimum", "minimum", Verdict.CONTRADICTED),
        ("saddle", "not-critical", Verdict.CONTRADICTED),
    ],
)
def test_the_rule_on_ends(full, noisy, expected):
    def values(arm):
        return {"kind": full if arm.name == endpoints.FULL else noisy}

    assert verdict(endpoints, values, seeds=8) == expected
    assert verdict(endpoints, values, seeds=3) == Verdict.INCONCLUSIVE


# taylor


def test_the_model_of_second_order_fails_where_the_third_derivative_says():
    c = 0.3
    problem = Problem.from_function(
        lambda x: (x + x**2 / 2 + c * x**3).sum(), torch.zeros(1, dtype=torch.float64)
    )
    values = taylor._held(problem, "random", torch.ones(1, dtype=torch.float64), step=0.5)

    expected = [c * (0.5 * t) ** 2 / (1 + 0.25 * t) for t in values["distances_random"]]
    exact = (0.1 + sqrt(0.01 + 0.8 * c)) / (4 * c)  # of c t² = (1 + t/2)/10
    assert values["errors_random"] == pytest.approx(expected, abs=1e-9)
    assert exact <= values["radius_random"] <= exact * 10 ** (6 / 48)


def test_a_quadratic_is_its_model_at_every_distance():
    problem = Problem.from_function(
        lambda x: x[0] ** 2 - 3 * x[1] ** 2 + x[0], torch.ones(2, dtype=torch.float64)
    )
    values = taylor._held(problem, "random", torch.ones(2, dtype=torch.float64), step=1.0)

    assert max(values["errors_random"]) < 1e-9
    assert values["radius_random"] == pytest.approx(10 ** taylor.DECADES[1])


@pytest.mark.parametrize(
    ("radius", "expected"),
    [(1.0, Verdict.SUPPORTED), (-1.0, Verdict.CONTRADICTED), (0.0, Verdict.INCONCLUSIVE)],
)
def test_the_rule_on_taylor_models(radius, expected):
    def values(arm):
        return [
            {"log_step": 0.0, **{f"log_radius_{name}": r for name in taylor.DIRECTIONS}}
            for r in jitter(radius)
        ]

    assert verdict(taylor, values) == expected


def test_measuring_a_step_leaves_the_model_where_it_was(monkeypatch):
    at = []
    held = taylor._held
    monkeypatch.setattr(
        taylor, "_held", lambda problem, *args: at.append(problem.value()) or held(problem, *args)
    )

    values = measured(taylor, "after 0 updates")

    assert set(at) == {values["loss"]}


# momentum


@pytest.mark.parametrize("way", momentum.WAYS)
def test_a_ravine_is_descended_as_the_recursion_says(way):
    one = task(momentum, f"ravine, {way}")
    values = momentum.STUDY.measure(one)
    x = momentum._start("ravine", one.generator("start")).numpy()
    curvatures = np.logspace(0, 2, 20)
    for rate, found in zip(momentum.RATES[:4], values["losses"], strict=False):
        at, movement = x.copy(), np.zeros(20)
        for _ in range(momentum.STEPS):
            movement = momentum.WAYS[way] * movement - rate * curvatures * at
            at = at + movement
        assert found == pytest.approx(0.5 * (curvatures * at**2).sum(), rel=1e-9)


def test_a_rate_above_the_stable_one_diverges_and_is_told_so():
    values = measured(momentum, "ravine, none")
    stable = [rate < 2 / momentum.KAPPA for rate in momentum.RATES]

    assert values["losses"][-1] == values["logs"][-1] == inf
    assert [loss < values["losses"][0] for loss in values["losses"]][1:] == stable[1:]


@pytest.mark.parametrize(
    ("log", "passed", "expected"),
    [
        (-2.0, 0.9, Verdict.SUPPORTED),
        (0.0, 0.9, Verdict.INCONCLUSIVE),
        (-2.0, 0.1, Verdict.CONTRADICTED),
        (1.0, 0.9, Verdict.CONTRADICTED),
    ],
)
def test_the_rule_on_momentum(log, passed, expected):
    def values(arm):
        with_it = arm["way"] == "momentum"
        return [
            {"logs": (5.0, x if with_it else -extra, inf), "passed": passed if with_it else 0.5}
            for x, extra in zip(jitter(log), jitter(0.0), strict=True)
        ]

    assert verdict(momentum, values) == expected


def test_each_way_is_compared_at_its_own_best_rate():
    def values(arm):
        logs = (0.0, 3.0) if arm["way"] == "momentum" else (2.0, -1.0)
        return {"logs": logs, "passed": 0.5}

    effect = momentum.STUDY.decide(planted(momentum, values)).effects[0]

    assert (effect.first, effect.second) == (0.0, -1.0)


# stuck-not-critical


def test_at_the_rate_two_over_kappa_the_loss_stands_still_on_a_slope():
    values = measured(stuck_not_critical, stuck_not_critical.RAVINE)

    assert values["still"]
    assert values["kind"] == "not-critical"
    assert values["gradient_norm"] == pytest.approx(values["expected"], rel=1e-3)


@pytest.mark.parametrize(
    ("fall", "noise", "still"),
    [(0.0, 0.0, True), (0.0, 0.5, True), (0.1, 0.5, True), (0.1, 0.0, False), (-0.1, 0.0, True)],
    ids=["flat", "flat and noisy", "a fall lost in noise", "falling", "rising"],
)
def test_a_loss_stands_still_where_it_falls_by_no_more_than_its_noise(fall, noise, still):
    draw = np.random.default_rng(0)
    losses = [1 - fall * k / 50 + noise * draw.standard_normal() for k in range(200)]
    problem = Problem.from_function(lambda x: (x**2).sum(), torch.ones(1, dtype=torch.float64))

    assert stuck_not_critical._told(problem, losses, [1.0] * 200, 0)["still"] == still


def test_zero_weights_stand_still_at_a_saddle(monkeypatch):
    monkeypatch.setattr(stuck_not_critical, "UPDATES", (600, 600))

    values = measured(stuck_not_critical, stuck_not_critical.CONTROL)

    assert values["still"]
    assert values["kind"] == "saddle"


@pytest.mark.parametrize(
    ("kind", "still", "expected"),
    [
        ("not-critical", True, Verdict.SUPPORTED),
        ("minimum", True, Verdict.CONTRADICTED),
        ("not-critical", False, Verdict.INCONCLUSIVE),
        ("undecided", True, Verdict.INCONCLUSIVE),
    ],
)
def test_the_rule_on_standstills(kind, still, expected):
    def values(arm):
        return {"kind": kind, "still": still}

    assert verdict(stuck_not_critical, values) == expected


# What they share


def test_a_difference_within_an_arm_is_paired_by_seed():
    rows = tuple(
        Row("a", seed, {"x": x, "y": 2 * x}, 0.0) for seed, x in enumerate((1.0, 2.0, 4.0))
    )
    effect = within(
        Table((*rows, Row("b", 0, {"x": 100.0, "y": 0.0}, 0.0)), ("a", "b"), {}), "a", "y", "x"
    )

    assert effect.difference == pytest.approx(7 / 3)
    assert effect.count == 3
    assert effect.low < 7 / 3 < effect.high


def test_a_part_is_standardized_and_holds_no_sample_twice():
    data = task(starts, "width 2").data("digits")
    few = part(data, 50, torch.Generator().manual_seed(1))
    again = part(data, 50, torch.Generator().manual_seed(1))
    everything = part(data, 10**6, torch.Generator().manual_seed(1))

    assert torch.equal(few.train_inputs, again.train_inputs)
    assert few.train_inputs.mean(0).abs().max() < 1e-5
    assert len(few.train_inputs.unique(dim=0)) == 50
    assert len(everything.train_inputs) == len(data.train_inputs)


def test_numbers_are_regressed_and_classes_classified():
    data = task(starts, "width 2").data("digits")
    numbers = replace(
        data,
        classes=0,
        train_targets=data.train_targets.float(),
        test_targets=data.test_targets.float(),
    )

    assert isinstance(loss_for(data), nn.CrossEntropyLoss)
    assert isinstance(loss_for(numbers), nn.MSELoss)
