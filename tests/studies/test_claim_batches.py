"""The studies of batch sizes and algorithms decide by their rules, measure what they say, and bear what is missing."""

from importlib import import_module
from math import ceil, inf, isfinite, nan

import numpy as np
import pytest
import torch
from torch import nn

from unstick.data import load
from unstick.studies.frame import Row, Setting, Table, Task, Verdict, find_study, run_study
from unstick.studies.measures.batches import along, best_of, divided, present, scores
from unstick.studies.measures.noise_scale import two_batch
from unstick.training import Recipe, network

pytestmark = pytest.mark.slow

NAMES = (
    "batch-time",
    "batch-accuracy",
    "small-vs-large",
    "noise-scale",
    "large-batch",
    "algorithm-choice",
    "sharp-flat",
)
TINY = {
    "batch-time": {"SECONDS": (0.0, 0.0), "_devices": lambda: ["1 thread"]},
    "batch-accuracy": {"EPOCHS": (1, 1), "RATES": (0.1, 0.02)},
    "small-vs-large": {"EPOCHS": (2, 2), "WIDTHS": "8-8"},
    "noise-scale": {"EPOCHS": (2, 2), "PAIRS": (10, 10)},
    "large-batch": {"UPDATES": (8, 8), "WORKERS": 1},
    "algorithm-choice": {"GRADIENTS": (6, 6)},
    "sharp-flat": {"EPOCHS": 2, "POINTS": 5},
}
HIGHER = {  # where the claim says that the numbers are higher
    "batch-time": lambda arm: arm.endswith("B = 1"),
    "batch-accuracy": lambda arm: arm.endswith("N/64"),
    "small-vs-large": lambda arm: arm.endswith("small"),
    "noise-scale": lambda arm: ("start", "loss 1", "loss 0.3", "loss 0.1", "loss 0.03").index(
        arm[8:]
    ),
    "large-batch": lambda arm: arm.partition(": ")[2] not in ("momentum", "Adam"),
    "algorithm-choice": lambda arm: arm.endswith("full gradient"),
    "sharp-flat": lambda arm: arm == "large",
}
MEASURES = [
    "epoch_log",
    "update_log",
    "epoch_s",
    "update_ms",
    "train_epochs",
    "test_epochs",
    "train_updates",
    "test_updates",
    "train_tuned",
    "test_tuned",
    "scale",
    "scale_log",
    "estimate",
    "estimate_determined",
    "validation",
    "gradients",
    "gradients_log",
    "seconds",
    "seconds_log",
    "reached",
    "lambda",
    "lambda_log",
    "phi_log",
    "loss",
    "batch",
]


def values(name, arm, gap):
    """Numbers of an arm that is ``gap`` apart where the claim sees a difference."""
    number = 2.0 + 0.5 * gap * HIGHER[name](arm)
    test = 2.0 - 0.5 * gap * HIGHER[name](arm) if name == "sharp-flat" else number
    return {**dict.fromkeys(MEASURES, number), "train": number, "test": test}


def planted(name, gap, *, seeds=4):
    study = find_study(name)
    tasks = study.planned(Setting(seeds=seeds))
    rows = tuple(
        Row(task.arm.name, task.seed, values(name, task.arm.name, gap(task.seed)), 0.1)
        for task in tasks
    )
    return study, Table(rows, tuple(dict.fromkeys(row.arm for row in rows)), {})


@pytest.fixture
def tiny(request, monkeypatch):
    """A study whose trainings last an instant."""
    name = request.param
    module = import_module(f"unstick.studies.claims.{name.replace('-', '_')}")
    for constant, value in TINY[name].items():
        monkeypatch.setattr(module, constant, value)
    return find_study(name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("gap", "verdict"),
    [
        (lambda _seed: 1, Verdict.SUPPORTED),
        (lambda _seed: -1, Verdict.CONTRADICTED),
        (lambda seed: (-1) ** seed, Verdict.INCONCLUSIVE),
    ],
    ids=["as claimed", "the other way", "now so, now so"],
)
def test_the_verdict_follows_the_planted_difference(name, gap, verdict):
    study, table = planted(name, gap)

    assert study.decide(table).verdict == verdict


@pytest.mark.parametrize("name", NAMES)
def test_one_seed_an_arm_missing_or_a_failure_decides_nothing(name):
    study, whole = planted(name, lambda _seed: 1)
    first = whole.rows[0]
    failed = Row(first.arm, 0, {}, 0.1, failed="NonFinite: the loss is nan")
    wild = tuple(Row(row.arm, row.seed, dict.fromkeys(row.values, nan), 0.1) for row in whole.rows)
    endless = tuple(
        Row(row.arm, row.seed, dict.fromkeys(row.values, inf), 0.1) for row in whole.rows
    )
    only_one = tuple(row for row in whole.rows if row.arm == first.arm)
    one_seed = tuple(row for row in whole.rows if row.seed == 0)

    for rows in (one_seed, only_one, (failed, *one_seed[1:]), wild, endless):
        table = Table(rows, whole.arms, {})
        decision = study.decide(table)
        assert decision.verdict == Verdict.INCONCLUSIVE
        assert decision.said
        assert all(picture.name for picture in study.pictures(table))


@pytest.mark.parametrize("name", NAMES)
def test_every_picture_has_lines_and_the_shape_of_the_claim(name):
    study, table = planted(name, lambda _seed: 1)
    pictures = study.pictures(table)

    assert len({picture.name for picture in pictures}) == len(pictures) >= 1
    for picture in pictures:
        for series in (*picture.series, *picture.claimed):
            assert len(series.x) == len(series.y)
            assert len(series.low) in (0, len(series.x))
    assert pictures[0].claimed
    assert all(isfinite(y) for picture in pictures for one in picture.series for y in one.y)


@pytest.mark.parametrize("tiny", NAMES, indirect=True)
def test_a_study_runs_on_data_of_the_user(tiny):
    result = run_study(tiny, Setting(data="iris", model="8", seeds=1), backend="here")

    assert [row.failed for row in result.rows] == [""] * len(result.rows)
    assert result.outcome == "complete"
    assert len(result.rows) == result.planned > 1
    assert result.verdict == Verdict.INCONCLUSIVE  # of one seed nothing follows


@pytest.mark.parametrize("tiny", [n for n in NAMES if n != "batch-time"], indirect=True)
def test_equal_tasks_give_equal_numbers(tiny):
    setting = Setting(data="iris", model="8", seed=5)
    arm = tiny.arms(setting)[1]
    one, two = (tiny.measure(Task(arm, 5, setting)) for _ in range(2))
    clock = {"seconds", "seconds_log"}

    assert repr({k: v for k, v in one.items() if k not in clock}) == repr(
        {k: v for k, v in two.items() if k not in clock}
    )


@pytest.mark.parametrize("tiny", ["batch-time"], indirect=True)
def test_an_epoch_takes_its_updates_and_threads_are_put_back(tiny):
    threads = torch.get_num_threads()
    result = run_study(tiny, Setting(data="iris", seeds=1), backend="here")

    assert torch.get_num_threads() == threads
    for row in result.rows:
        of = row.values
        assert of["batch"] == {"B = 1": 1, "B = all": 120}.get(
            row.arm.partition(", ")[2], of["batch"]
        )
        assert of["epoch_s"] == pytest.approx(of["update_ms"] / 1e3 * ceil(120 / of["batch"]))
        assert of["update_ms_low"] <= of["update_ms"] <= of["update_ms_high"]
        assert of["threads"] == (1 if row.arm.startswith("1 thread,") else of["threads"])


def test_regressions_are_refused_where_classes_are_needed(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(
        "import torch\ndef data():\n    x = torch.randn(40, 3)\n    return x, x[:, 0]\n"
    )
    result = run_study(
        find_study("noise-scale"), Setting(data=f"{path}:data", seeds=1), backend="here"
    )

    assert all("needs classes" in row.failed for row in result.rows)


# what they measure with


def test_two_sizes_of_batches_tell_gradient_and_noise_of_planted_gradients():
    draw = np.random.default_rng(0)
    G = draw.normal(size=(300, 5)) + 0.5
    squared, trace = float((G.mean(0) ** 2).sum()), float(G.var(0).sum())
    table = torch.from_numpy(G)
    found = two_batch(
        lambda rows: float((table[rows].mean(0) ** 2).sum()),
        samples=300,
        small=4,
        big=64,
        pairs=4000,
        generator=torch.Generator().manual_seed(0),
    )

    assert found.determined
    assert abs(found.gradient - squared) < 4 * found.gradient_error
    assert found.noise == pytest.approx(trace, rel=0.1)
    assert found.scale == pytest.approx(trace / squared, rel=0.15)


def test_where_the_gradient_is_zero_the_noise_scale_is_undetermined():
    table = torch.randn(300, 5, generator=torch.Generator().manual_seed(1))
    table -= table.mean(0)
    found = two_batch(
        lambda rows: float((table[rows].mean(0) ** 2).sum()),
        samples=300,
        small=4,
        big=64,
        pairs=200,
        generator=torch.Generator().manual_seed(0),
    )

    assert not found.determined
    assert np.isnan(found.scale)


def test_the_noise_scale_at_the_start_is_that_of_a_loop_over_samples():
    setting = Setting(data="iris", model="4", seed=3)
    study = find_study("noise-scale")
    task = Task(study.arms(setting)[0], 3, setting)
    found = study.measure(task)
    data = load("iris").standardized()
    model = network("4", data.train_inputs[0], 3, seed=3).double()
    rows = []
    for x, y in zip(data.train_inputs.double(), data.train_targets, strict=True):
        loss = nn.functional.cross_entropy(model(x.unsqueeze(0)), y.unsqueeze(0))
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        rows.append(torch.cat([g.flatten() for g in gradients]).numpy())
    G = np.stack(rows)
    squared = (G.mean(0) ** 2).sum()

    assert found["gradient_squared"] == pytest.approx(squared, rel=1e-4)
    assert found["trace"] == pytest.approx(G.var(0, ddof=1).sum(), rel=1e-4)
    assert found["scale"] == pytest.approx(G.var(0, ddof=1).sum() / squared, rel=1e-4)


def test_the_recipe_that_validates_best_is_chosen_and_ties_go_to_the_first():
    setting = Setting(data="iris", seed=1)
    data = divided(Task(find_study("batch-accuracy").arms(setting)[0], 1, setting), "iris", 1000)
    still, good = Recipe(lr=0.0, epochs=1), Recipe(lr=0.1, epochs=10)

    def build():
        return network("8", data.train_inputs[0], 3, seed=1)

    best, found = best_of([still, good, good], build, data)

    assert best == 1
    assert found[0] == scores(build(), data)  # a rate of 0 moves nothing
    assert found[1]["validation"] > found[0]["validation"]


def test_validation_samples_are_no_training_samples():
    setting = Setting(data="digits", seed=2)
    task = Task(find_study("batch-accuracy").arms(setting)[0], 2, setting)
    data = divided(task, "digits", 1000)

    assert (len(data.train_inputs), len(data.validation_inputs)) == (800, 200)
    assert data.train_inputs.mean().abs() < 1e-5
    assert torch.cdist(data.validation_inputs[:50], data.train_inputs).min() > 0.5


def test_data_that_would_have_to_be_downloaded_are_left_out(tmp_path):
    assert present(("digits", "mnist"), Setting(data_dir=tmp_path)) == ("digits",)
    assert present(("digits", "mnist"), Setting(data="iris")) == ("iris",)


def test_arms_without_numbers_are_no_points_of_a_line():
    rows = (Row("a", 0, {"x": 1.0, "y": 2.0}, 0.0), Row("b", 0, {"x": 2.0, "y": inf}, 0.0))
    line = along("line", Table(rows, ("a", "b", "c"), {}), "x", "y", ("a", "b", "c"))

    assert (line.x, line.y, line.low, line.high) == ((1.0,), (2.0,), (2.0,), (2.0,))


@pytest.mark.parametrize(
    ("samples", "expected"), [(60_000, 256), (4000, 32), (1437, 11), (120, 4), (30, 1)]
)
def test_a_small_batch_is_a_125th_within_its_limits(samples, expected):
    small_vs_large = import_module("unstick.studies.claims.small_vs_large")

    assert small_vs_large.small_batch(samples) == expected


def test_the_convolutional_network_takes_signals_and_images_and_leaves_randomness_alone():
    small_vs_large = import_module("unstick.studies.claims.small_vs_large")
    signals = load("digits")
    x = signals.train_inputs[:40].reshape(-1, 1, 8, 8)
    images = type(signals)(
        "images", x, signals.train_targets[:40], x, signals.train_targets[:40], "", 10
    )
    before = torch.get_rng_state()

    for data, kind in ((signals, nn.Conv1d), (images, nn.Conv2d)):
        one, two = (small_vs_large.convolutional(data, seed=seed) for seed in (0, 1))
        again = small_vs_large.convolutional(data, seed=0)
        assert one(data.train_inputs[:5]).shape == (5, 10)
        assert sum(isinstance(module, kind) for module in one.modules()) == 2
        assert torch.equal(one[2].weight, again[2].weight)
        assert not torch.equal(one[2].weight, two[2].weight)
    assert torch.equal(torch.get_rng_state(), before)


def test_both_batch_sizes_stop_where_the_loss_on_all_samples_is_the_target(monkeypatch):
    sharp_flat = import_module("unstick.studies.claims.sharp_flat")
    monkeypatch.setattr(sharp_flat, "SAMPLES", (400, 400))
    target = sharp_flat.TARGET[0]
    setting = Setting(data="digits", model="16", seeds=1)
    result = run_study(find_study("sharp-flat"), setting, backend="here")
    large = next(row for row in result.rows if row.arm == "large")

    for row in result.rows:
        assert 0.7 * target < row.values["loss"] <= target
        assert row.values["lambda"] > 0
    assert len(large.values["line_at"]) == len(large.values["line_loss"]) >= 25
    assert large.values["line_loss"][large.values["line_at"].index(1.0)] == pytest.approx(
        large.values["loss"], rel=1e-3
    )
