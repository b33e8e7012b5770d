"""Studies of trainings: closed forms, rules on planted tables, and whole runs that lack something."""

from math import inf, isfinite, nan

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from unstick.data import load
from unstick.errors import BadData
from unstick.studies.claims import (
    batch_normalization,
    convexity,
    edge_of_stability,
    feature_normalization,
    initialization,
    minimum_ratio,
    schedules,
)
from unstick.studies.frame import Row, Setting, Table, Task, Verdict, run_study
from unstick.studies.measures.classes import classified
from unstick.studies.measures.curves import binned, over_seeds
from unstick.training import Recipe, evaluate, network, train

pytestmark = pytest.mark.slow

MODULES = (
    initialization,
    feature_normalization,
    batch_normalization,
    schedules,
    edge_of_stability,
    convexity,
    minimum_ratio,
)
STUDIES = [module.STUDY for module in MODULES]
CHEAP = {
    "initialization": "He, relu",
    "feature-normalization": "scales over 10, normalized",
    "batch-normalization": "with noise, η = 0.1",
    "schedules": "SGD, cosine",
    "edge-of-stability": "η = 0.5",
    "convexity": "linear, squared error",
    "minimum-ratio": "with L2",
}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Few samples and updates."""
    monkeypatch.setattr(initialization, "NETS", {"tanh": "16-16", "relu": "16-16-16"})
    monkeypatch.setattr(initialization, "DRAWS", 2)
    monkeypatch.setattr(batch_normalization, "WIDTHS", "8-8")
    monkeypatch.setattr(batch_normalization, "PROBES", (2, 2))
    monkeypatch.setattr(edge_of_stability, "PARTS", (2, 2))
    monkeypatch.setattr(convexity, "POINTS", (4, 4))
    monkeypatch.setattr(minimum_ratio, "UPDATES", ((0, 5), (0, 5)))
    monkeypatch.setattr(minimum_ratio, "STEPS", (2, 2))
    for module, samples in ((convexity, (40, 40)), (minimum_ratio, (40, 40)), (initialization, 120),
                            (batch_normalization, 200), (schedules, 120), (edge_of_stability, 60)):  # fmt: skip
        monkeypatch.setattr(module, "SAMPLES", samples)
    for module, updates in ((initialization, 20), (batch_normalization, 8), (schedules, 12), (edge_of_stability, 4)):  # fmt: skip
        monkeypatch.setattr(module, "UPDATES", (updates, updates))
    monkeypatch.setattr(convexity, "UPDATES", 5)
    monkeypatch.setattr(feature_normalization, "MOST", (200, 200))


def task(module, name, seed=0, **setting):
    chosen = Setting(**setting)
    arm = next(arm for arm in module.STUDY.arms(chosen) if arm.name == name)
    return Task(arm, seed, chosen)


def measured(module, name, seed=0, **setting):
    if module is schedules and "data" not in setting:
        setting["data"] = "digits"  # at hand sooner
    return module.STUDY.measure(task(module, name, seed, **setting))


def planted(module, values, *, seeds=4, without=(), scatter=1e-3):
    """A table in which every arm has its values, a little different for each seed."""
    arms = module.STUDY.arms(Setting())
    rows = [
        Row(
            arm.name,
            seed,
            {
                name: value + scatter * (seed - seeds / 2)
                if isinstance(value, float) and isfinite(value) and name not in EXACT
                else value
                for name, value in values(arm).items()
            },
            0.0,
        )
        for seed in range(seeds)
        for arm in arms
        if arm.name not in without
    ]
    return Table(
        tuple(rows), tuple(arm.name for arm in arms), {arm.name: dict(arm.knobs) for arm in arms}
    )


EXACT = ("spread", "largest", "predicted", "one")  # numbers that seeds do not scatter


def verdict(module, values, **how):
    return module.STUDY.decide(planted(module, values, **how)).verdict


@pytest.mark.parametrize("module", MODULES, ids=[study.name for study in STUDIES])
def test_equal_calls_give_equal_numbers_and_a_table_that_can_be_drawn(module):
    name = CHEAP[module.STUDY.name]
    first, again = measured(module, name), measured(module, name)

    assert set(first) == set(again)
    for key, value in first.items():
        if isinstance(value, float | tuple) and key != "lowest_curvature":
            assert_close(again[key], value, rtol=0, atol=0, equal_nan=True)
        elif not isinstance(value, float):
            assert again[key] == value
    arms = module.STUDY.arms(Setting())
    table = Table(
        (Row(name, 0, first, 0.1),),
        tuple(arm.name for arm in arms),
        {arm.name: dict(arm.knobs) for arm in arms},
    )
    assert module.STUDY.pictures(table)[0].claimed
    for picture in module.STUDY.pictures(table):
        assert picture.series
        for series in picture.series:
            assert len(series.x) == len(series.y) > 0
    assert any(
        isfinite(y) for p in module.STUDY.pictures(table) for series in p.series for y in series.y
    )


@pytest.mark.parametrize("module", MODULES, ids=[study.name for study in STUDIES])
def test_a_table_that_lacks_arms_decides_nothing_and_can_be_drawn(module):
    arms = module.STUDY.arms(Setting())
    knobs = {arm.name: dict(arm.knobs) for arm in arms}
    rows = {arm.name: Row(arm.name, 0, {}, 0.0, "Error: out of memory") for arm in arms}

    for some in ([arms[0]], [arms[-1]], arms):
        table = Table(tuple(rows[arm.name] for arm in some), tuple(arm.name for arm in arms), knobs)
        assert module.STUDY.decide(table).verdict == Verdict.INCONCLUSIVE
        assert not any(series.y for p in module.STUDY.pictures(table) for series in p.series if any(map(isfinite, series.y)))  # fmt: skip


@pytest.mark.parametrize("study", STUDIES, ids=[study.name for study in STUDIES])
def test_arms_have_names_of_their_own_and_more_is_done_in_full(study):
    for setting in (Setting(), Setting(full=True)):
        names = [arm.name for arm in study.arms(setting)]
        assert len(set(names)) == len(names) > 1
    assert study.seeds[1] > study.seeds[0] >= 3


@pytest.mark.parametrize(
    "module", [m for m in MODULES if m not in (convexity, feature_normalization)]
)
def test_a_regression_is_refused_in_one_line_where_classes_are_needed(module, tmp_path):
    own = tmp_path / "own.py"
    own.write_text("import torch\ndef numbers():\n    return torch.randn(40, 3), torch.randn(40)\n")

    with pytest.raises(BadData, match="is a regression; this study needs classes"):
        measured(module, CHEAP[module.STUDY.name], data=f"{own}:numbers")


def test_a_whole_run_measures_every_arm_on_every_seed():
    result = run_study(convexity.STUDY, Setting(seeds=1), backend="here")

    assert [row.arm for row in result.rows] == list(result.arms)
    assert not [row.failed for row in result.rows if row.failed]
    assert result.verdict == Verdict.SUPPORTED  # theorems on one side, proofs on the other


# initialization


@pytest.mark.parametrize("start", ["zero", "one"])
def test_units_that_start_equal_stay_equal_bit_for_bit(start):
    assert measured(initialization, f"{start}, tanh")["spread"] == 0.0


def test_from_zero_only_the_last_bias_learns_so_all_samples_get_one_class():
    found = measured(initialization, "zero, relu")
    targets = classified(task(initialization, "zero, relu"), "digits", 120).train_targets
    shares = torch.bincount(targets) / len(targets)

    assert min(abs(float(share) - found["accuracy"]) for share in shares) < 1e-6
    assert found["loss"] >= float(-(shares * shares.clamp_min(1e-12).log()).sum())


@pytest.mark.parametrize(("start", "expected"), [("He", 1.0), ("Xavier", 16 / (16 + 16))])
def test_the_predicted_ratio_is_half_of_fan_in_times_variance(start, expected):
    assert measured(initialization, f"{start}, relu")["predicted"] == pytest.approx(expected)


def starts(arm, *, good=-3.0, ratio=(1.0, 0.5), spread=0.0):
    name, net = arm["start"], arm["net"]
    matching = name == {"tanh": "Xavier", "relu": "He"}[net]
    found = {
        "log_loss": good if matching else 0.8,
        "accuracy": 0.9,
        "spread": spread,
        "largest": 1.0,
    }
    found |= {"ratio": nan, "predicted": nan}
    if net == "relu" and name in ("He", "Xavier"):
        at = ("He", "Xavier").index(name)
        found |= {"ratio": ratio[at], "predicted": (1.0, 0.5)[at]}
    return found


def test_initialization_is_decided_by_losses_ratios_and_equal_units():
    assert verdict(initialization, starts) == Verdict.SUPPORTED
    assert verdict(initialization, lambda arm: starts(arm, good=2.0)) == Verdict.CONTRADICTED
    assert verdict(initialization, lambda arm: starts(arm, spread=0.1)) == Verdict.CONTRADICTED
    assert (
        verdict(initialization, lambda arm: starts(arm, ratio=(2.0, 0.5))) == Verdict.CONTRADICTED
    )
    assert verdict(initialization, lambda arm: starts(arm, good=0.8)) == Verdict.INCONCLUSIVE
    assert verdict(initialization, starts, without=("He, relu",)) == Verdict.INCONCLUSIVE


def test_rounding_of_huge_weights_does_not_count_as_units_that_differ():
    assert verdict(initialization, lambda arm: starts(arm, spread=1e-14)) == Verdict.SUPPORTED


# feature normalization


@pytest.fixture
def orthogonal(tmp_path):
    """Two orthogonal features about 0 of deviations 1 and 10, and a target of both."""
    own = tmp_path / "orthogonal.py"
    own.write_text(
        "import torch\n"
        "def two():\n"
        "    x = torch.tensor([[1., 10.], [-1., 10.], [1., -10.], [-1., -10.]]).double().repeat(5, 1)\n"
        "    y = 3 * x[:, 0] + 0.2 * x[:, 1]\n"
        "    return x, y, x, y\n"
    )
    return f"{own}:two"


def test_orthogonal_features_normalized_are_one_step_from_the_minimum(orthogonal):
    found = measured(feature_normalization, "as they are, normalized", data=orthogonal)

    assert found["condition"] == pytest.approx(1.0)
    assert (found["steps"], found["rate"]) == (1, 1.0)


def test_steps_on_raw_orthogonal_features_are_those_of_the_closed_form(orthogonal):
    found = measured(feature_normalization, "as they are, raw", data=orthogonal)
    curvatures, start = np.array([1.0, 100.0, 1.0]), np.array([3.0, 0.2, 0.0])
    counts = []
    for share in feature_normalization.RATES:
        kept = (1 - share / 100 * curvatures) ** 2
        loss = 0.5 * (curvatures * start**2 * kept ** np.arange(300)[:, None]).sum(1)
        counts.append(
            int(np.argmax(loss <= 0.1 * loss[0])) if (loss <= 0.1 * loss[0]).any() else inf
        )

    assert found["condition"] == pytest.approx(100.0)
    assert found["steps"] == min(counts)


def lengths(arm, raw=3.0, normalized=1.0):
    return {
        "log_steps": normalized if arm["normalized"] else raw,
        "log_condition": 2.0,
        "reached": True,
    }


def test_feature_normalization_is_decided_where_features_were_stretched():
    def unlike(arm):
        return lengths(arm, raw=0.5 if arm["spread"] == 1 else 3.0)

    assert verdict(feature_normalization, lengths) == Verdict.SUPPORTED
    assert verdict(feature_normalization, unlike) == Verdict.SUPPORTED
    assert verdict(feature_normalization, lambda arm: lengths(arm, raw=0.5)) == Verdict.CONTRADICTED
    lost = ("scales over 10, raw",)
    assert verdict(feature_normalization, lengths, without=lost) == Verdict.INCONCLUSIVE


# batch normalization


def test_the_walk_measures_what_separate_gradients_give():
    model = network("5", torch.zeros(3), 2, activation="tanh", seed=1).double()
    inputs, targets = torch.randn(9, 3, generator=torch.Generator().manual_seed(0)).double(), torch.arange(9) % 2  # fmt: skip
    steps = (0.1, 0.7)

    def at(step):
        moved = [(p - step * d).detach().requires_grad_() for p, d in zip(model.parameters(), g, strict=True)]  # fmt: skip
        W, b, V, c = moved
        loss = nn.functional.cross_entropy(torch.tanh(inputs @ W.T + b) @ V.T + c, targets)
        return float(loss.detach()), torch.cat(
            [d.flatten() for d in torch.autograd.grad(loss, moved)]
        )

    loss = nn.functional.cross_entropy(model(inputs), targets)
    g = torch.autograd.grad(loss, list(model.parameters()))
    flat = torch.cat([d.flatten() for d in g])
    losses = [float(loss.detach()), *(at(step)[0] for step in steps)]
    changes = [float((at(step)[1] - flat).norm()) for step in steps]
    smoothness = max(c / (s * float(flat.norm())) for c, s in zip(changes, steps, strict=True))

    found = batch_normalization._walk(model, (inputs, targets), steps)

    assert found == pytest.approx((max(losses) - min(losses), max(changes), smoothness), rel=1e-10)


def test_noise_is_new_at_each_update_stays_where_it_is_still_and_is_its_mean_at_test_time():
    noise, inputs = batch_normalization.Disturbed(50), torch.ones(4, 50)
    with torch.random.fork_rng():
        first, second = noise(inputs), noise(inputs)
        noise.still = True
        kept = noise(inputs)
    noise.still = False

    assert not torch.equal(first, second)
    assert torch.equal(second, kept)
    assert bool(((second >= 0.5) & (second <= 1.75)).all())
    assert torch.equal(noise.eval()(inputs), 1.125 * inputs)


def test_a_shift_is_told_in_standard_deviations():
    values = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    moved = values + 0.5 * values.std(0)

    assert batch_normalization._shift([values], [moved]) == pytest.approx(0.5, rel=1e-5)
    assert batch_normalization._shift([values], [values]) == 0.0


def walks(arm, *, smoother=-1.0, noisy=0.95, shift=0.3):
    kind = arm["kind"]
    plain = {"accuracy": 0.4 if arm["lr"] == 0.5 else 0.96, "shift": 0.05}
    plain |= {"log_fixed_range": 0.0, "log_fixed_change": 0.0, "fixed_range": 1.0}
    if kind == "batch":
        return plain | {"accuracy": 0.96, "log_fixed_range": smoother, "log_fixed_change": smoother}
    return plain | {"accuracy": noisy, "shift": shift} if kind == "noise" else plain


def test_batch_normalization_is_decided_by_walks_the_large_rate_and_the_noise():
    assert verdict(batch_normalization, walks) == Verdict.SUPPORTED
    assert (
        verdict(batch_normalization, lambda arm: walks(arm, smoother=1.0)) == Verdict.CONTRADICTED
    )
    assert verdict(batch_normalization, lambda arm: walks(arm, noisy=0.9)) == Verdict.CONTRADICTED
    assert verdict(batch_normalization, lambda arm: walks(arm, shift=0.01)) == Verdict.CONTRADICTED
    assert verdict(batch_normalization, walks, seeds=1) == Verdict.INCONCLUSIVE
    lost = ("without, η = 0.1",)
    assert verdict(batch_normalization, walks, without=lost) == Verdict.INCONCLUSIVE


# schedules


def test_a_rate_of_the_grid_ends_where_a_training_of_its_own_ends():
    found = measured(schedules, "SGD, step")
    one = task(schedules, "SGD, step", data="digits")
    data = classified(one, "digits", 120)
    model = one.network("64-64", data)
    recipe = Recipe(lr=0.3, batch_size=32, updates=12, schedule="step", every=4)
    train(model, data, nn.functional.cross_entropy, recipe)

    assert found["rates"][1] == 0.3
    assert found["ends"][1] == pytest.approx(
        evaluate(model, data, nn.functional.cross_entropy).loss, rel=1e-4
    )
    assert found["loss"] == min(found["ends"])


def ends(arm, *, decay=-2.0, warm=-1.0):
    low = arm["schedule"] != "constant"
    return {
        "loss": 1.0,
        "log_loss": decay if low else 0.0,
        "large": 1.0,
        "log_large": warm if arm["warm"] else 0.0,
        "edge": False,
    }


def test_schedules_are_decided_by_each_decay_and_by_warm_up():
    assert verdict(schedules, ends) == Verdict.SUPPORTED
    assert verdict(schedules, lambda arm: ends(arm, decay=0.5)) == Verdict.CONTRADICTED
    assert verdict(schedules, lambda arm: ends(arm, warm=0.5)) == Verdict.CONTRADICTED
    assert verdict(schedules, lambda arm: ends(arm, warm=0.0)) == Verdict.INCONCLUSIVE
    assert verdict(schedules, ends, without=("SGD, constant",)) == Verdict.INCONCLUSIVE


# edge of stability


def test_the_sharpness_of_a_linear_model_is_that_of_its_data_and_never_moves():
    found = measured(edge_of_stability, "η = 0.1", model="linear")
    data = classified(task(edge_of_stability, "η = 0.1"), "digits", 60)
    X = np.column_stack([data.train_inputs.double().numpy(), np.ones(60)])
    expected = np.linalg.norm(X, 2) ** 2 / 60 * 0.1 / 2

    assert found["ratios"] == pytest.approx([expected] * 3, rel=2e-3)
    assert found["reached"] == (expected >= 1)


def test_a_divergence_is_measured_and_not_raised():
    found = edge_of_stability.STUDY.measure(
        Task(edge_of_stability.Arm("η = 1e30", {"lr": 1e30}), 0, Setting())
    )

    assert found["outcome"] == "diverged"
    assert found["loss"] == inf

    def values(arm):
        return found if arm["lr"] == 1.0 else sharp(arm)

    decision = edge_of_stability.STUDY.decide(planted(edge_of_stability, values))
    assert decision.verdict == Verdict.SUPPORTED
    assert "η = 1: diverged" in decision.said


def sharp(arm, *, end=1.05, slow=0.3):
    return {
        "ratio": slow if arm["lr"] == 0.1 else end,
        "one": 1.0,
        "reached": arm["lr"] != 0.1,
        "rises": 3,
    }


def test_the_edge_is_decided_at_the_rates_that_reached_it():
    assert verdict(edge_of_stability, sharp) == Verdict.SUPPORTED
    assert verdict(edge_of_stability, lambda arm: sharp(arm, end=1.5)) == Verdict.CONTRADICTED
    assert verdict(edge_of_stability, lambda arm: sharp(arm, end=1.1)) == Verdict.INCONCLUSIVE
    assert verdict(edge_of_stability, sharp, without=("η = 0.5", "η = 1")) == Verdict.INCONCLUSIVE


# convexity


def test_the_loss_of_a_linear_model_is_a_parabola_below_its_chord():
    found = measured(convexity, "linear, squared error")
    losses, chord = np.array(found["losses"]), np.array(found["chord"])
    bends = np.diff(losses, 2)

    assert found["outcome"] == "none found"
    assert bends == pytest.approx(np.full(len(bends), bends.mean()), rel=1e-5)
    assert np.all(losses <= chord + 1e-9)


def test_behind_a_hidden_layer_the_loss_lies_above_its_chord():
    found = measured(convexity, "hidden layer, squared error")

    assert found["outcome"] == "nonconvex"
    assert max(np.array(found["losses"]) - np.array(found["chord"])) > 0
    assert found["gap"] > found["noise"]


def test_numbers_become_two_classes_about_their_median(tmp_path):
    own = tmp_path / "own.py"
    own.write_text(
        "import torch\ndef few():\n    x = torch.arange(20.)[:, None]\n    return x, x[:, 0], x, x[:, 0]\n"
    )
    found = measured(convexity, "linear, cross-entropy", data=f"{own}:few")

    assert found["parameters"] == 2 * (1 + 1)


def bent(arm, *, linear=False, hidden=True):
    violated = hidden if arm["model"] == "hidden layer" else linear
    return {"violated": violated, "tests": 10, "gap": 0.5}


def test_one_violation_decides_convexity():
    assert verdict(convexity, bent) == Verdict.SUPPORTED
    assert verdict(convexity, lambda arm: bent(arm, linear=True)) == Verdict.CONTRADICTED
    assert verdict(convexity, lambda arm: bent(arm, hidden=False)) == Verdict.INCONCLUSIVE
    lost = ("linear, squared error",)
    assert verdict(convexity, bent, without=lost) == Verdict.INCONCLUSIVE


# minimum ratio


def found_at(arm, *, kind=0.0, negative=0.0, zero=0.0):
    late = (kind, negative, zero) if arm["decay"] else (1.0, 3.0, 4.0)
    return {
        "loss": (2.0, 0.5),
        "ratio": (0.5, 1.0 - (late[1] + late[2]) / 10),
        "negative": (5.0, late[1]),
        "zero": (0.0, late[2]),
        "square": (1e-3, 1e-30),
        "class": (2.0, late[0]),
        "updates": (0.0, 100.0),
    }


def test_the_minimum_ratio_is_decided_by_what_converged_runs_with_decay_are():
    cases = {
        Verdict.CONTRADICTED: found_at,
        Verdict.SUPPORTED: lambda arm: found_at(arm, negative=1.0),
    }
    for expected, values in cases.items():
        assert verdict(minimum_ratio, values, seeds=6) == expected
        assert verdict(minimum_ratio, values, seeds=2) == Verdict.INCONCLUSIVE
    flat = [lambda arm: found_at(arm, kind=1.0), lambda arm: found_at(arm, zero=1.0)]
    for (
        values
    ) in flat:  # neither an end that is not critical nor one with zeros is a strict minimum
        assert verdict(minimum_ratio, values, seeds=6) == Verdict.SUPPORTED
    assert verdict(minimum_ratio, found_at, seeds=6, without=("with L2",)) == Verdict.INCONCLUSIVE


def test_each_end_of_a_search_has_its_norm_its_ratio_and_its_class():
    found = measured(minimum_ratio, "with L2")

    assert found["parameters"] == 16 * 4 + 4 + 4 * 10 + 10
    ratio, negative, zero = (np.array(found[name]) for name in ("ratio", "negative", "zero"))
    assert ratio == pytest.approx((118 - negative - zero) / 118)
    assert set(found["class"]) <= {0.0, 1.0, 2.0}
    assert all(square > 0 for square in found["square"])
    assert found["start_loss"][1] < found["start_loss"][0]


def test_digits_are_taken_in_four_by_four_pixels():
    images = load("digits").train_inputs[:3]
    blocks = images.numpy().reshape(3, 8, 8)
    expected = [[b[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean() for i in range(4) for j in range(4)] for b in blocks]  # fmt: skip

    assert_close(minimum_ratio._pooled(images).double(), torch.tensor(expected).double(), rtol=1e-6, atol=1e-6)  # fmt: skip


# curves


def test_curves_of_unequal_length_are_joined_where_they_are():
    line = over_seeds("a", (0.0, 1.0, 2.0), [(1.0, 2.0), (3.0, nan, 4.0)])

    assert line.y == (2.0, 2.0, 4.0)
    assert (line.low, line.high) == ((1.0, 2.0, 4.0), (3.0, 2.0, 4.0))
    assert binned([1.0], 2)[0] == 1.0
    assert np.isnan(binned([1.0], 2)[1])
