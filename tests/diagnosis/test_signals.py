"""Planted faults of the signal path are seen for what they are; healthy layers and near misses are not."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from cases import network, zeroed
from unstick.diagnosis import signals as signals_module
from unstick.diagnosis.signals import read_signals
from unstick.problem.problem import Problem

SAMPLES, INPUTS, WIDE = 60, 4, 10


def inputs():
    return torch.randn(SAMPLES, INPUTS, generator=torch.Generator().manual_seed(0))


def classes():
    return (inputs()[:, 0] > 0).long()


def classifying(model, x=None, y=None, loss=None):
    x, y = inputs() if x is None else x, classes() if y is None else y
    return Problem(model, (x, y), loss or nn.CrossEntropyLoss())


def signals(model, x=None, y=None, loss=None):
    return read_signals(classifying(model, x, y, loss), seed=0)


def killed(units, activation=nn.ReLU):
    """A net whose first layer has so many of ten units far below zero for every sample."""
    model = network(INPUTS, WIDE, 2, activation=activation)
    with torch.no_grad():
        model[0].bias[:units] = -20.0
    return model


class Functional(nn.Module):
    """Activations that are no modules."""

    def __init__(self, model, function):
        super().__init__()
        self.first, self.last, self.function = model[0], model[2], function

    def forward(self, x):
        return self.last(self.function(self.first(x)))


@pytest.mark.parametrize("units", [0, 4, 10])
def test_dead_units_are_counted(units):
    (layer,) = signals(killed(units)).layers

    assert (layer.name, layer.module, layer.units) == ("#0 (Linear)", "0", WIDE)
    assert layer.dead == units / WIDE
    assert layer.dead_units == tuple(range(units))


@pytest.mark.parametrize("units", [0, 4, 10])
@pytest.mark.parametrize("how", ["function", "in place"])
def test_dead_units_are_counted_however_the_activation_is_written(units, how):
    model = killed(units)
    if how == "function":
        model = Functional(model, functional.relu)
    else:
        model[1] = nn.ReLU(inplace=True)

    assert signals(model).layers[0].dead == units / WIDE


@pytest.mark.parametrize("activation", [nn.LeakyReLU, nn.Tanh, nn.ELU])
def test_a_unit_with_a_slope_on_both_sides_is_never_dead(activation):
    model = network(INPUTS, WIDE, 2, activation=activation)
    with torch.no_grad():
        model[0].bias[:] = -8.0  # far on the other side, where no sum of gradients underflows

    assert signals(model).layers[0].dead == 0


def test_units_that_a_zero_weight_hides_are_not_dead():
    model = network(INPUTS, WIDE, 2, activation=nn.ReLU)
    nn.init.zeros_(model[2].weight)

    assert signals(model).layers[0].dead == 0


def test_a_dead_convolution_has_dead_channels():
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 2))
    with torch.no_grad():
        model[0].bias[:3] = -20.0
    (layer,) = signals(model, torch.randn(SAMPLES, 1, 4, 4)).layers

    assert (layer.units, layer.dead) == (6, 0.5)


def test_dead_units_are_told_by_their_place_and_no_more_than_so_many(monkeypatch):
    model = network(INPUTS, WIDE, 2, activation=nn.ReLU)
    with torch.no_grad():
        model[0].bias[[1, 4, 7]] = -20.0

    assert signals(model).layers[0].dead_units == (1, 4, 7)
    monkeypatch.setattr(signals_module, "LISTED", 2)
    assert signals(model).layers[0].dead_units == (1, 4)
    assert signals(model).layers[0].dead == 0.3


class Places(nn.Module):
    """A layer on inputs of some shape, and a head over all of its outputs."""

    def __init__(self, layer, shape):
        super().__init__()
        self.layer, self.shape = layer, shape
        self.head = nn.Linear(layer(torch.zeros(2, *shape)).numel() // 2, 2)

    def forward(self, x):
        return self.head(torch.relu(self.layer(x.reshape(len(x), *self.shape))).flatten(1))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(2, 6), (2,)),
        (nn.Linear(2, 6), (3, 2)),
        (nn.Linear(2, 6), (3, 5, 2)),
        (nn.Conv1d(2, 6, 1), (2, 3)),
        (nn.Conv2d(2, 6, 1), (2, 3, 3)),
        (nn.Conv3d(2, 6, 1), (2, 3, 3, 3)),
        (nn.ConvTranspose1d(2, 6, 1), (2, 3)),
        (nn.BatchNorm1d(6), (6, 3)),
        (nn.LayerNorm(6), (3, 6)),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, nn.Module) else str(each),
)
def test_the_units_are_the_columns_that_the_kind_of_layer_has(layer, shape):
    with torch.no_grad():
        layer.bias.zero_()[[0, 4]] = -50.0
    x = torch.randn(SAMPLES, math.prod(shape), generator=torch.Generator().manual_seed(0))
    model = Places(layer, shape).eval()
    (told,) = signals(model, x).layers

    assert (told.units, told.dead_units) == (6, (0, 4))


@pytest.mark.parametrize("where", ["entry", "row", "bias", "head"])
def test_what_is_huge_elsewhere_in_a_tensor_wakes_no_unit_at_rest(where):
    model = killed(4)
    with torch.no_grad():
        if where == "entry":
            model[0].weight[9, 0] = 1e6
        elif where == "row":
            model[0].weight[9] *= 1e6
        elif where == "bias":
            model[0].bias[9] = 1e6
        else:
            model[2].weight[:, 9] = 1e6

    dead = set(signals(model).layers[0].dead_units)
    assert dead - {9} == {0, 1, 2, 3}  # the huge one may bring the loss to where it has no slope


def test_small_rows_beside_ordinary_ones_stay_at_rest():
    model = network(INPUTS, WIDE, 2, activation=nn.ReLU)
    with torch.no_grad():
        model[0].weight[:5] *= 1e-5
        model[0].bias[:5] = -1e-4

    assert signals(model).layers[0].dead_units == (0, 1, 2, 3, 4)


@pytest.mark.parametrize("huge", [1.0, 1e6])
def test_units_that_zeros_hide_beside_huge_weights_are_not_dead(huge):
    model = network(INPUTS, WIDE, 2, activation=nn.ReLU)
    with torch.no_grad():
        model[2].weight[:, :6] = 0.0
        model[2].weight[:, 6:] *= huge
    told = signals(model)

    assert told.layers[0].dead == 0
    assert told.stays_still == ()


def test_a_unit_that_a_single_sample_barely_wakes_is_not_dead():
    model = network(INPUTS, WIDE, 2, activation=nn.ReLU)
    with torch.no_grad():
        reached = (inputs() @ model[0].weight.T).amax(0)
        model[0].bias.copy_(-reached * (1 - 1e-5))

    assert signals(model).layers[0].dead == 0


def test_layers_that_are_frozen_up_to_there_are_not_dead():
    model = network(INPUTS, WIDE, WIDE, 2, activation=nn.ReLU)
    for parameter in model[:3].parameters():
        parameter.requires_grad_(False)

    assert [layer.dead for layer in signals(model).layers] == [0, 0]


class Cut(nn.Module):
    """The body works without gradients, though it is to learn."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(INPUTS, WIDE), nn.Linear(WIDE, 2)

    def forward(self, x):
        with torch.no_grad():
            seen = torch.tanh(self.body(x))
        return self.head(seen)


def test_a_layer_that_is_to_learn_and_is_cut_off_is_dead():
    (layer,) = signals(Cut()).layers

    assert (layer.name, layer.module, layer.dead) == ("body (Linear)", "body", 1)
    assert layer.dead_units == tuple(range(WIDE))


@pytest.mark.parametrize(("groups", "copies"), [(1, 1.0), (5, 1.0), (10, 0.0)])
def test_copies_are_units_alike_on_every_sample(groups, copies):
    model = network(INPUTS, WIDE, 2)
    with torch.no_grad():
        rows = torch.arange(WIDE) % groups
        model[0].weight.copy_(model[0].weight[rows].clone())
        model[0].bias.copy_(model[0].bias[rows].clone())

    assert signals(model).layers[0].copies == copies


def test_constant_weights_make_all_units_of_every_layer_copies():
    model = network(INPUTS, WIDE, 7, 2)
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.3)

    assert [layer.copies for layer in signals(model).layers] == [1.0, 1.0]


@pytest.mark.parametrize("apart", [1e-3, 1.0])
def test_units_that_differ_by_a_thousandth_are_no_copies(apart):
    model = network(INPUTS, WIDE, 2)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        model[0].weight.fill_(0.3).add_(apart * torch.randn(WIDE, INPUTS, generator=draw))

    assert signals(model).layers[0].copies == 0


def test_the_saturated_share_is_that_of_slopes_below_a_hundredth():
    model = network(INPUTS, WIDE, 2)
    nn.init.normal_(model[0].weight, std=5.0, generator=torch.Generator().manual_seed(3))
    x = inputs().numpy().astype(float)
    w, b = (p.detach().numpy().astype(float) for p in (model[0].weight, model[0].bias))

    (layer,) = signals(model).layers
    assert layer.saturated == pytest.approx(np.mean(1 - np.tanh(x @ w.T + b) ** 2 < 0.01))
    assert layer.saturated > 0.5


@pytest.mark.parametrize("activation", [nn.Sigmoid, nn.Softsign, nn.Hardtanh])
def test_other_activations_saturate_beside_their_own_steepest_slope(activation):
    model = network(INPUTS, WIDE, 2, activation=activation)
    healthy = signals(model).layers[0].saturated
    with torch.no_grad():
        model[0].bias += 50.0 * torch.tensor([-1.0, 1.0]).repeat(WIDE // 2)

    assert healthy < 0.2
    assert signals(model).layers[0].saturated == 1


def test_a_well_trained_tanh_net_is_not_saturated():
    model = network(INPUTS, WIDE, 2)
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    for _ in range(200):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(inputs()), classes())
        loss.backward()
        optimizer.step()

    told = signals(model)
    assert float(loss.detach()) < 0.05
    assert told.layers[0].saturated < 0.4
    assert told.layers[0].dead == told.layers[0].copies == 0


@pytest.mark.parametrize("units", [4, 10])
def test_units_at_rest_are_dead_and_not_saturated(units):
    assert signals(killed(units)).layers[0].saturated == 0


class Counted(nn.Tanh):
    calls = 0

    def forward(self, input):  # noqa: A002
        self.calls += 1
        return super().forward(input)


def test_asking_for_a_slope_does_not_ask_for_that_of_the_question():
    model = network(INPUTS, WIDE, 2, activation=Counted)
    problem = classifying(model)
    before = model[1].calls
    read_signals(problem, seed=0)

    assert 10 < model[1].calls - before < 80


@pytest.mark.parametrize("function", [torch.tanh, functional.relu, functional.gelu])
def test_an_activation_that_is_no_module_is_never_called_saturated(function):
    (layer,) = signals(Functional(network(INPUTS, WIDE, 2), function)).layers

    assert layer.saturated == 0


def body_and_softmax():
    model = nn.Sequential(nn.Linear(INPUTS, 8), nn.ReLU(), nn.Linear(8, 1), nn.Softmax(dim=1))
    return model, nn.MSELoss(), classes().float().unsqueeze(1)


def test_a_softmax_over_one_unit_lets_no_gradient_through_whatever_the_parameters():
    model, loss, y = body_and_softmax()
    told = signals(model, y=y, loss=loss)

    assert told.still == told.stays_still == told.always_still
    assert len(told.always_still) == 4
    assert told.still_share == 1
    assert told.outputs_constant


def test_behind_a_frozen_zero_head_nothing_ever_moves():
    model = network(INPUTS, WIDE, 2)
    nn.init.zeros_(model[2].weight).requires_grad_(False)
    told = signals(model)

    assert told.always_still == ("0.weight", "0.bias")  # the head's own bias moves
    assert told.still_share == pytest.approx((WIDE * INPUTS + WIDE) / (WIDE * INPUTS + WIDE + 2))


def test_a_head_that_starts_at_zero_hides_the_body_for_one_update_only():
    model = network(INPUTS, WIDE, 2)
    nn.init.zeros_(model[2].weight)
    told = signals(model)

    assert told.still == ("0.weight", "0.bias")
    assert told.stays_still == told.always_still == ()
    assert told.still_share == 0


def test_all_zero_parameters_are_still_and_do_not_stay_so():
    told = signals(zeroed(network(INPUTS, WIDE, WIDE, 2)))

    assert set(told.still) == {"0.weight", "0.bias", "2.weight", "2.bias", "4.weight"}
    assert told.stays_still == ()


def test_a_dead_layer_stays_still_when_nudged_and_lives_at_random_parameters():
    told = signals(killed(WIDE))

    assert set(told.stays_still) == {"0.weight", "0.bias", "2.weight"}
    assert told.always_still == ()


def test_a_healthy_net_has_nothing_still():
    told = signals(network(INPUTS, WIDE, WIDE, 2, activation=nn.ReLU))

    assert told.still == told.stays_still == told.always_still == ()
    assert told.still_share == 0
    assert not told.outputs_constant
    assert all(layer.gradient > 0 for layer in told.layers)


def deep(activation, layers=12):
    return network(INPUTS, *[WIDE] * layers, 2, activation=activation)


def test_the_gradient_vanishes_through_sigmoids_as_their_slope_has_it():
    told = signals(deep(nn.Sigmoid))

    assert (
        0 < told.shrinkage < 0.25**11
    )  # each layer takes a quarter at most, its weights take more
    gradients = [layer.gradient for layer in told.layers]
    assert gradients == sorted(gradients)


def test_the_gradient_does_not_vanish_where_layers_are_made_for_their_activation():
    model = deep(nn.Tanh)
    for layer in model[::2]:
        nn.init.orthogonal_(layer.weight, generator=torch.Generator().manual_seed(0))

    assert 0.01 < signals(model).shrinkage < 10
    assert signals(network(INPUTS, WIDE, WIDE, 2, activation=nn.Sigmoid)).shrinkage > 3e-3


def test_the_sizes_of_inputs_targets_and_outputs_are_root_mean_squares():
    model = network(INPUTS, WIDE, 1)
    x = inputs() * torch.tensor([1.0, 10.0, 100.0, 0.0])
    y = 7 * torch.randn(SAMPLES, 1, generator=torch.Generator().manual_seed(4))
    told = signals(model, x, y, nn.MSELoss())

    with torch.no_grad():
        out = model(x).numpy()
    assert told.input_size == pytest.approx(float(np.sqrt(np.mean(x.numpy() ** 2))))
    assert told.target_size == pytest.approx(float(np.sqrt(np.mean(y.numpy() ** 2))))
    assert told.output_size == pytest.approx(float(np.sqrt(np.mean(out**2))), rel=1e-5)
    deviations = x.numpy()[:, :3].std(0, ddof=1)  # the feature that never varies is left out
    few, many = np.quantile(deviations, [0.05, 0.95])
    assert told.input_spread == pytest.approx(many / few, rel=1e-5)


def test_one_feature_in_forty_that_hardly_varies_spreads_nothing():
    x = torch.randn(SAMPLES, 40, generator=torch.Generator().manual_seed(5))
    x[:, 0] *= 1e-6
    few, many = (signals(network(40, WIDE, 2), x * scale).input_spread for scale in (1.0, ramp(40)))

    assert few < 3
    assert many > 300


def ramp(width):
    """Scales of features from 1 to 1,000, half of them each."""
    return torch.tensor([1.0, 1000.0]).repeat_interleave(width // 2)


@pytest.mark.parametrize("shift", [0.0, 7.0, -500.0])
def test_the_offset_is_the_mean_of_the_usual_feature_in_its_own_deviations(shift):
    x = inputs() * torch.tensor([1.0, 10.0, 100.0, 0.0])
    x[:, :3] += shift * torch.tensor([1.0, 10.0, 100.0])
    ratios = np.abs(x.numpy()[:, :3].mean(0)) / x.numpy()[:, :3].std(0, ddof=1)

    assert signals(network(INPUTS, WIDE, 2), x).input_offset == pytest.approx(
        sorted(ratios)[1], rel=1e-4
    )


@pytest.mark.parametrize(
    "x",
    [torch.randn(SAMPLES, 1, 2, 2), torch.ones(SAMPLES, INPUTS)],
    ids=["pictures", "nothing varies"],
)
def test_features_that_are_no_columns_or_never_vary_have_no_spread_and_no_offset(x):
    told = signals(nn.Sequential(nn.Flatten(), *network(INPUTS, WIDE, 2)), x)

    assert told.input_spread is None
    assert told.input_offset is None


@pytest.mark.parametrize(
    ("last", "bias", "share"),
    [
        (nn.Sigmoid(), 0.0, 0.0),
        (nn.Sigmoid(), 50.0, 1.0),
        (nn.Tanh(), -50.0, 1.0),
        (nn.ReLU(), -50.0, 0.0),  # at rest, which is another state
        (nn.Identity(), 50.0, 0.0),
    ],
)
def test_outputs_where_the_last_activation_is_flat_are_counted(last, bias, share):
    model = nn.Sequential(*network(INPUTS, WIDE, 1), last)
    nn.init.constant_(model[2].bias, bias)
    told = signals(model, y=classes().float()[:, None], loss=nn.MSELoss())

    assert told.output_saturated == share


def test_the_saturated_outputs_are_those_with_a_slope_below_a_hundredth_of_a_quarter():
    model = nn.Sequential(*network(INPUTS, WIDE, 3), nn.Sigmoid())
    nn.init.normal_(model[2].weight, std=5.0, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        s = model(inputs()).double().numpy()

    expected = np.mean(s * (1 - s) / 0.25 < 0.01)
    assert 0.1 < expected < 0.9
    told = signals(model, y=bits(), loss=nn.MSELoss())
    assert told.output_saturated == pytest.approx(expected)


class LastState(nn.Module):
    """A recurrence of ``factor`` times the identity, and a head on its last state or on all of them."""

    def __init__(self, factor, *, kind=nn.RNN, batch_first=True, everywhere=False):
        super().__init__()
        self.cell = kind(INPUTS, 5, batch_first=batch_first)
        self.head, self.everywhere, self.time = nn.Linear(5, 2), everywhere, int(batch_first)
        with torch.no_grad():
            self.cell.weight_hh_l0.copy_(
                factor * torch.eye(5).repeat(len(self.cell.weight_hh_l0) // 5, 1)
            )
            for name, parameter in self.cell.named_parameters():
                if "bias" in name:
                    parameter.zero_()

    def forward(self, x):
        states, _ = self.cell(x)
        return self.head(
            states.mean(self.time) if self.everywhere else states.select(self.time, -1)
        )


def sequences(steps, size=1e-3):
    """So small that the slope of every tanh is 1."""
    draw = torch.Generator().manual_seed(0)
    return size * torch.randn(SAMPLES, steps, INPUTS, generator=draw)


@pytest.mark.parametrize("factor", [0.1, 0.5])
@pytest.mark.parametrize("steps", [8, 12])
def test_a_gradient_through_time_shrinks_as_the_powers_of_the_recurrence(factor, steps):
    told = signals(LastState(factor), sequences(steps))

    norms = factor ** np.arange(steps)
    assert told.through_time == pytest.approx(np.quantile(norms, 0.25), rel=0.05)


def test_a_recurrence_that_keeps_its_state_or_is_asked_at_every_step_keeps_the_gradient():
    assert signals(LastState(1.0), sequences(12)).through_time == pytest.approx(1, rel=0.05)
    assert signals(LastState(0.1, everywhere=True), sequences(12)).through_time > 0.8
    assert signals(LastState(0.1), sequences(12)).through_time < 1e-7


def test_the_axis_of_time_is_that_of_the_layer():
    x = sequences(12)
    first = signals(LastState(0.1), x).through_time
    model = LastState(0.1, batch_first=False)

    def loss(out, y):
        return functional.cross_entropy(out, y)

    turned = Problem(
        model, [(x, classes())], batch_loss=lambda m, b: loss(m(b[0].transpose(0, 1)), b[1])
    )
    assert read_signals(turned, seed=0).through_time == pytest.approx(first, rel=0.2)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_gates_are_looked_through_as_well(kind):
    assert 0 < signals(LastState(0.1, kind=kind), sequences(12)).through_time < 1


def test_fewer_than_eight_steps_and_models_without_time_say_nothing_of_it():
    assert signals(LastState(0.1), sequences(7)).through_time is None
    assert signals(network(INPUTS, WIDE, 2)).through_time is None


@pytest.mark.parametrize(
    ("last", "loss", "shares", "scores"),
    [
        (nn.Identity(), nn.CrossEntropyLoss(), False, True),
        (nn.Softmax(dim=1), nn.CrossEntropyLoss(), True, True),  # the fault: normalized twice
        (nn.LogSoftmax(dim=1), nn.NLLLoss(), False, False),
        (nn.Softmax(dim=1), lambda p, y: functional.nll_loss(p.log(), y), True, False),
        (nn.Sigmoid(), nn.CrossEntropyLoss(), False, True),
    ],
)
def test_shares_given_to_a_loss_that_takes_scores_are_told_from_what_fits(
    last, loss, shares, scores
):
    told = signals(nn.Sequential(*network(INPUTS, WIDE, 3), last), loss=loss)

    assert (told.outputs_are_shares, told.loss_takes_scores) == (shares, scores)


@pytest.mark.parametrize("loss", [nn.BCELoss(), functional.binary_cross_entropy])
def test_a_loss_that_refuses_what_is_no_probability_takes_no_scores(loss):
    model = nn.Sequential(*network(INPUTS, WIDE, 3), nn.Softmax(dim=1))
    told = signals(model, y=bits(), loss=loss)

    assert (told.outputs_are_shares, told.loss_takes_scores) == (True, False)
    assert not model._forward_hooks


@pytest.mark.parametrize(("last", "shift", "cut"), [
    (nn.ReLU(), 0.0, True),
    (nn.Identity(), 0.0, False),
    (nn.ReLU(), 100.0, False),  # no target is negative
    (nn.Softplus(), 0.0, False),  # nothing is cut off at zero exactly
])  # fmt: skip
def test_outputs_cut_off_at_zero_are_seen_where_targets_are_negative(last, shift, cut):
    y = inputs()[:, :1] + shift
    told = signals(nn.Sequential(*network(INPUTS, WIDE, 1), last), y=y, loss=nn.MSELoss())

    assert told.outputs_one_sided == cut


def bits():
    return (inputs()[:, :3] > torch.tensor([-0.5, 0.4, 1.2])).float()


def named(model, batch):
    return functional.cross_entropy(model(batch["x"]), batch["labels"])


def test_batches_by_name_are_read():
    model = network(INPUTS, WIDE, WIDE, 2)
    told = read_signals(
        Problem(model, [{"x": inputs(), "labels": classes()}], batch_loss=named), seed=0
    )
    plain = signals(model)

    assert told.input_size == plain.input_size
    assert told.samples == plain.samples == SAMPLES
    assert told.target_size is None
    assert told.constant_loss is None
    assert [(a.dead, a.copies, a.saturated) for a in told.layers] == [
        (a.dead, a.copies, a.saturated) for a in plain.layers
    ]
    assert told.shrinkage == pytest.approx(plain.shrinkage)


def test_of_batches_that_do_not_join_the_first_is_looked_at_and_counted():
    def pooled(model, batch):
        return functional.cross_entropy(model(batch["x"].mean(1)), batch["labels"])

    lengths = torch.tensor([3, 5, 4])
    batches = [
        {"x": inputs()[:20, None].expand(20, int(n), INPUTS), "labels": classes()[:20]}
        for n in lengths
    ]
    told = read_signals(Problem(network(INPUTS, WIDE, 2), batches, batch_loss=pooled), seed=0)

    assert told.samples == 20


def test_a_function_has_no_layers_and_its_vector_may_be_still():
    flat = read_signals(Problem.from_function(lambda x: (x**2).sum() * 0, torch.ones(3)), seed=0)
    bowl = read_signals(Problem.from_function(lambda x: (x**2).sum(), torch.zeros(3)), seed=0)

    assert flat.layers == bowl.layers == ()
    assert flat.samples == 0
    assert flat.always_still == ("x",)
    assert (bowl.still, bowl.stays_still) == (("x",), ())
    assert flat.shrinkage is flat.input_size is flat.output_size is flat.constant_loss is None


class Recurrent(nn.Module):
    """Outputs in a tuple, tokens in, and a layer that is used twice."""

    def __init__(self):
        super().__init__()
        self.embed, self.cell = nn.Embedding(9, 6), nn.GRU(6, 5, batch_first=True)
        self.twice, self.head = nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, tokens):
        states, _ = self.cell(self.embed(tokens))
        return self.head(self.twice(torch.tanh(self.twice(states[:, -1]))))


def test_tokens_recurrence_and_a_layer_used_twice_are_read():
    tokens = torch.randint(9, (SAMPLES, 3), generator=torch.Generator().manual_seed(0))
    told = signals(Recurrent(), tokens)

    assert [layer.module for layer in told.layers] == ["embed", "cell", "twice", "twice"]
    assert [layer.name for layer in told.layers[:2]] == ["embed (Embedding)", "cell (GRU)"]
    assert told.through_time is None  # three steps are too few
    assert told.input_size is None
    assert all(layer.dead < 0.5 for layer in told.layers)


def test_nothing_of_the_models_moves_and_no_hook_stays():
    model = nn.Sequential(nn.Linear(INPUTS, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    model.train()
    problem = classifying(model)
    before = [t.clone() for t in model.state_dict().values()]
    random = torch.get_rng_state()
    read_signals(problem, seed=0)

    assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values(), strict=True))
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(module.training for module in model.modules())
    assert torch.equal(random, torch.get_rng_state())


def test_the_same_seed_reads_the_same_of_a_part_of_many_samples():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(1000, INPUTS, generator=draw)
    problem = classifying(network(INPUTS, WIDE, 2), x, (x[:, 0] > 0).long())

    assert read_signals(problem, seed=1) == read_signals(problem, seed=1)
    assert read_signals(problem, seed=1).samples == 256
    assert read_signals(problem, seed=1).input_size != read_signals(problem, seed=2).input_size
