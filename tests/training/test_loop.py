"""The training loop, against plain PyTorch, against itself interrupted, and against what should end it."""

import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from unstick.errors import BadCheckpoint, BadData, BadRecipe
from unstick.training import loop
from unstick.training.loop import train
from unstick.training.optimizers import OPTIMIZERS, make_optimizer
from unstick.training.order import BatchOrder
from unstick.training.recipe import Recipe
from unstick.training.samples import evaluate

COLUMNS = ("updates", "loss", "learning_rate", "batch_size", "gradient_norm", "update_norm")
LOSS = nn.CrossEntropyLoss()


def blobs(samples=90, seed=0):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(samples) % 3
    centers = torch.tensor([[0.0, 2.0], [2.0, -1.0], [-2.0, -1.0]])
    noise = torch.randn(samples, 2, generator=generator)
    return centers[targets] + 0.7 * noise, targets


def net(seed=0, dropout=0.0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(2, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 3)
        ).double()


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def seen(trace):
    """Everything but the clock."""
    return {name: getattr(trace, name) for name in COLUMNS}


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "heavy-ball", "nesterov"])
def test_the_loop_is_the_plain_one(optimizer):
    inputs, targets = blobs()
    recipe = Recipe(optimizer=optimizer, lr=0.05, batch_size=20, epochs=3, seed=4)
    model, plain = net(), net()
    told = train(model, (inputs, targets), LOSS, recipe)

    order = BatchOrder(90, 20, seed=4)
    moving = make_optimizer(recipe, plain.parameters(), samples=90)
    losses = []
    for _ in range(15):
        rows = order.next()
        moving.zero_grad()
        loss = LOSS(plain(inputs.double()[rows]), targets[rows])
        loss.backward()
        moving.step()
        losses.append(loss.item())

    assert told.trace.loss == losses
    assert torch.equal(flat(model), flat(plain))
    assert told.trace.batch_size == [20, 20, 20, 20, 10] * 3
    assert told.outcome == "done"
    assert told.epochs == 3.0


def test_norms_are_those_of_gradient_and_update():
    inputs, targets = blobs()
    told = train(net(), (inputs, targets), LOSS, Recipe(lr=0.3, epochs=1, norms=True))

    assert told.trace.update_norm == pytest.approx([0.3 * g for g in told.trace.gradient_norm])
    model = net()
    rows = BatchOrder(90, 32, seed=0).next()
    LOSS(model(inputs.double()[rows]), targets[rows]).backward()
    expected = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters()))
    assert told.trace.gradient_norm[0] == pytest.approx(expected)


def test_clipping_shortens_long_gradients_only():
    recipe = Recipe(lr=1.0, epochs=9, clip_norm=0.4, norms=True)
    trace = train(net(), blobs(), LOSS, recipe).trace

    clipped = [min(g, 0.4) for g in trace.gradient_norm]
    assert max(trace.gradient_norm) > 0.4 > min(trace.gradient_norm)
    assert trace.update_norm == pytest.approx(clipped, rel=1e-4)


def test_the_rate_of_each_update_is_the_schedules():
    recipe = Recipe(lr=0.5, epochs=2, batch_size=30, schedule="step", every=2, factor=0.1, warmup=2)
    trace = train(net(), blobs(), LOSS, recipe).trace

    assert trace.learning_rate == pytest.approx([0.25, 0.5, 0.5, 0.5, 0.05, 0.05])


def test_equal_recipes_give_equal_bits_and_global_randomness_stays():
    def run():
        model = net(dropout=0.3)
        told = train(model, blobs(), LOSS, Recipe(epochs=2))
        return told.trace.loss, flat(model)

    torch.manual_seed(7)
    before = torch.get_rng_state()
    first, again = run(), run()
    after = torch.get_rng_state()
    torch.manual_seed(8)
    elsewhere = run()

    assert first[0] == again[0] == elsewhere[0]
    assert torch.equal(first[1], elsewhere[1])
    assert torch.equal(before, after)


def test_the_models_mode_is_put_back():
    model = net().eval()
    model[2].train()
    train(model, blobs(), LOSS, Recipe(epochs=1))

    assert [module.training for module in model] == [False, False, True, False]


def test_validation_is_looked_at_as_often_as_asked_and_at_the_end():
    told = train(
        net(),
        blobs(),
        LOSS,
        Recipe(epochs=5, batch_size=30),
        validation=blobs(seed=1),
        evaluate_every=2,
    )

    assert [score.update for score in told.scores] == [6, 12, 15]
    assert told.scores[-1].accuracy > 0.8


def test_evaluation_is_a_mean_over_samples_in_eval_mode():
    inputs, targets = blobs()
    model = net(dropout=0.9).train()

    score = evaluate(model, (inputs, targets), LOSS)

    model.eval()
    outputs = model(inputs.double()).detach()
    assert score.loss == pytest.approx(float(LOSS(outputs, targets)))
    assert score.accuracy == pytest.approx(float((outputs.argmax(1) == targets).double().mean()))


@pytest.mark.parametrize(
    ("changes", "outcome", "most"),
    [
        ({"target_loss": 0.4}, "target reached", 99),
        ({"lr": 0.0, "patience": 4}, "no progress", 15),
        ({"lr": 1e308}, "diverged", 6),
        ({"updates": 7}, "done", 7),
        ({"budget": 2.0}, "done", 6),
        ({"epochs": 1.5}, "done", 4),
    ],
)
def test_a_training_ends_where_it_should(changes, outcome, most):
    recipe = replace(Recipe(epochs=100, batch_size=30), **changes)

    told = train(net(), blobs(), LOSS, recipe)

    assert told.outcome == outcome
    assert len(told.trace.loss) <= most
    if outcome == "done":
        assert len(told.trace.loss) == most


def test_patience_does_not_end_a_training_that_goes_on():
    recipe = Recipe(lr=0.05, epochs=20, patience=2, batch_size=30)

    assert train(net(), blobs(), LOSS, recipe).outcome == "done"


def test_a_diverged_model_keeps_the_parameters_of_its_last_loss():
    model = net()
    told = train(model, blobs(), LOSS, Recipe(lr=1e308, epochs=3))

    assert not math.isfinite(told.trace.loss[-1])
    assert all(map(math.isfinite, told.trace.loss[:-1]))


@pytest.mark.parametrize("kind", [name for name in OPTIMIZERS if name != "lars"])
def test_every_optimizer_learns(kind):
    whole = OPTIMIZERS[kind].whole
    rate = {"rmsprop-warmup": 0.05, "lamb": 0.02, "saddle-free-newton": None}.get(kind, 0.05)
    recipe = Recipe(optimizer=kind, lr=rate, batch_size=None if whole else 15, updates=60)
    model = net()

    told = train(model, blobs(), LOSS, recipe)

    assert told.outcome in ("done", "second-order stationary")
    assert evaluate(model, blobs(), LOSS).loss < 0.6 * told.trace.loss[0]


def test_an_average_of_parameters_is_their_mean_over_epochs():
    inputs, targets = blobs()
    recipe = Recipe(lr=0.2, epochs=4, batch_size=30)
    ends = []
    for epochs in (3, 4):
        model = net()
        train(model, (inputs, targets), LOSS, replace(recipe, epochs=epochs))
        ends.append(flat(model))
    averaged = net()

    told = train(averaged, (inputs, targets), LOSS, replace(recipe, average_from=0.75))

    assert torch.allclose(flat(averaged), (ends[0] + ends[1]) / 2)
    assert "mean of 2" in told.notes[0]


RESUMED = [
    Recipe(
        optimizer="adam", lr=0.01, epochs=6, batch_size=20, schedule="cosine", warmup=3, norms=True
    ),
    Recipe(optimizer="heavy-ball", epochs=6, batch_size=7, schedule="plateau", average_from=0.5),
    Recipe(optimizer="lamb", lr=0.01, epochs=4, batch_size=20, shuffle="once"),
    Recipe(optimizer="rmsprop-warmup", lr=0.01, epochs=5, batch_size=40),
    Recipe(optimizer="perturbed-gradient-descent", batch_size=None, updates=25),
    Recipe(optimizer="saddle-free-newton", batch_size=None, updates=14),
]


@pytest.mark.parametrize("stop", [1, 5, 11])
@pytest.mark.parametrize("recipe", RESUMED, ids=lambda r: r.optimizer)
def test_a_resumed_training_is_the_uninterrupted_one(recipe, stop, tmp_path):
    path, dropout = tmp_path / "run.safetensors", 0.0 if recipe.batch_size is None else 0.2
    whole, stopped, resumed = (
        net(dropout=dropout),
        net(dropout=dropout),
        net(seed=9, dropout=dropout),
    )
    expected = train(whole, blobs(), LOSS, recipe, validation=blobs(seed=1))

    train_until(stopped, recipe, stop, path)
    told = train(
        resumed, blobs(), LOSS, recipe, validation=blobs(seed=1), checkpoint=path, resume=True
    )

    assert seen(told.trace) == seen(expected.trace)
    assert torch.equal(flat(whole), flat(resumed))
    assert told.scores == expected.scores


def train_until(model, recipe, stop, path):
    """Train, and press Ctrl-C during update ``stop``."""
    update, updates = loop._Run._update, 0

    def pressed(run):
        nonlocal updates
        updates += 1
        if updates == stop:
            signal.raise_signal(signal.SIGINT)
        return update(run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop._Run, "_update", pressed)
        told = train(model, blobs(), LOSS, recipe, validation=blobs(seed=1), checkpoint=path)
    assert told.outcome == "interrupted"


KILLED = """
import sys
sys.path.insert(0, {tests!r})
from test_loop import LOSS, blobs, net
from unstick.training.loop import train
from unstick.training.recipe import Recipe
recipe = Recipe(optimizer="adam", lr=0.01, updates=4000, batch_size=8)
model = net(dropout=0.2)
train(model, blobs(), LOSS, recipe, checkpoint={path!r}, checkpoint_seconds=0.0, resume=True)
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_loses_nothing_that_was_written(tmp_path):
    path = tmp_path / "run.safetensors"
    text = KILLED.format(tests=str(Path(__file__).parent), path=str(path))
    threads = {**os.environ, "OMP_NUM_THREADS": "1"}  # as here: sums depend on it
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", text], env=threads)
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    recipe = Recipe(optimizer="adam", lr=0.01, updates=4000, batch_size=8)

    whole, resumed = net(dropout=0.2), net(seed=3, dropout=0.2)
    expected = train(whole, blobs(), LOSS, recipe)
    from unstick.training.checkpoint import read_state

    done = len(read_state(path)["trace"]["loss"])
    told = train(resumed, blobs(), LOSS, recipe, checkpoint=path, resume=True)

    assert 0 < done < 4000
    assert seen(told.trace) == seen(expected.trace)
    assert torch.equal(flat(whole), flat(resumed))


def test_a_training_that_was_over_is_not_gone_on_with(tmp_path):
    path, recipe = tmp_path / "run.safetensors", Recipe(epochs=50, target_loss=0.5)
    first = train(net(), blobs(), LOSS, recipe, checkpoint=path)

    again = train(net(), blobs(), LOSS, recipe, checkpoint=path, resume=True)

    assert first.outcome == again.outcome == "target reached"
    assert seen(first.trace) == seen(again.trace)


def test_what_does_not_fit_is_not_resumed(tmp_path):
    path, recipe = tmp_path / "run.safetensors", Recipe(epochs=1)
    train(net(), blobs(), LOSS, recipe, checkpoint=path)

    with pytest.raises(BadCheckpoint, match="exists; expected resume=True"):
        train(net(), blobs(), LOSS, recipe, checkpoint=path)
    changed = replace(recipe, seed=1, lr=0.2)
    with pytest.raises(BadCheckpoint, match=r"another recipe: lr was None, seed was 0"):
        train(net(), blobs(), LOSS, changed, checkpoint=path, resume=True)
    with pytest.raises(BadCheckpoint, match="of other data"):
        train(net(), blobs(seed=1), LOSS, recipe, checkpoint=path, resume=True)
    with pytest.raises(BadCheckpoint, match="of another model"):
        train(nn.Linear(2, 3), blobs(), LOSS, recipe, checkpoint=path, resume=True)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(BadCheckpoint, match="is not the state of a training"):
        train(net(), blobs(), LOSS, recipe, checkpoint=path, resume=True)


def test_an_optimizer_goes_on_with_its_memory():
    data = blobs()
    recipe = Recipe(optimizer="adam", lr=0.01, batch_size=None, updates=10)
    whole, half = net(), net()
    train(whole, data, LOSS, replace(recipe, updates=20))
    own = make_optimizer(recipe, half.parameters(), samples=90)
    for _ in range(2):
        train(half, data, LOSS, replace(recipe, lr=None), optimizer=own)

    assert torch.allclose(flat(whole), flat(half), rtol=0, atol=1e-12)


def test_the_rates_that_are_told_are_those_of_the_optimizer_that_was_given():
    model = net()
    own = torch.optim.SGD([{"params": model[0].parameters()}, {"params": model[3].parameters(), "lr": 0.04}], lr=0.2)  # fmt: skip
    recipe = Recipe(lr=5.0, updates=3, batch_size=None, schedule="step", every=2, factor=0.1)

    told = train(model, blobs(), LOSS, recipe, optimizer=own)

    assert told.trace.learning_rate == pytest.approx([0.2, 0.2, 0.02])
    assert [group["lr"] for group in own.param_groups] == pytest.approx([0.02, 0.004])


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"batch_size": 91}, BadRecipe, "batch_size is 91 and there are 90 samples"),
        ({"optimizer": "adan"}, BadRecipe, "optimizer is 'adan'; expected one of"),
        ({"beta1": 0.5}, BadRecipe, "sgd has no beta1; it has lr, momentum"),
        ({"optimizer": "gradient-descent"}, BadRecipe, "takes all samples in every update"),
        ({"lr": -1.0}, BadRecipe, "lr is -1.0; expected at least 0"),
        ({"schedule": "sine"}, BadRecipe, "schedule is 'sine'"),
    ],
)
def test_settings_out_of_range_are_refused_before_anything_moves(given, error, said):
    model = net()
    with pytest.raises(error, match=said):
        train(model, blobs(), LOSS, Recipe(**given))

    assert torch.equal(flat(model), flat(net()))


def test_batches_that_do_not_join_are_refused():
    with pytest.raises(BadData, match="do not join into one"):
        train(
            net(), [(torch.zeros(3, 2), torch.zeros(3)), (torch.zeros(3, 4), torch.zeros(3))], LOSS
        )
    with pytest.raises(BadData, match="expected one of loss="):
        train(net(), blobs())


def test_batches_may_be_mappings():
    inputs, targets = blobs()
    model = net()
    told = train(
        model,
        [{"x": inputs[:45], "y": targets[:45]}, {"x": inputs[45:], "y": targets[45:]}],
        batch_loss=lambda model, batch: LOSS(model(batch["x"]), batch["y"]),
        recipe=Recipe(epochs=2),
    )

    same = net()
    assert told.trace.loss == train(same, (inputs, targets), LOSS, Recipe(epochs=2)).trace.loss
