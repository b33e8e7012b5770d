"""What stands behind the last layer and between the layers is found by what is called, and exchanged only where that holds."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from unstick.diagnosis.bench import Bench
from unstick.diagnosis.run import Run
from unstick.diagnosis.surgery import NotPossible, exchange, hidden_activations, trailing_modules
from unstick.problem.problem import Problem

X = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
RELU = (nn.ReLU,)


def sum_of(outputs, _targets):
    return outputs.double().square().mean()


def benched(model, inputs=X, loss=sum_of):
    problem = Problem(model, (inputs, torch.zeros(len(inputs), 1)), loss)
    return Bench(Run(problem, torch.optim.SGD(model.parameters(), 0.1)), problem)


class Nested(nn.Module):
    """Blocks inside blocks, called in another order than they are held in."""

    def __init__(self):
        super().__init__()
        self.out = nn.Sequential(nn.Sequential(nn.Linear(4, 2), nn.Softmax(-1)))
        self.first = nn.ModuleDict({"layer": nn.Linear(3, 4), "act": nn.ReLU()})

    def forward(self, x):
        return self.out(self.first["act"](self.first["layer"](x)))


class Functional(nn.Module):
    """Modules but for a softmax, which is a function."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.Tanh())

    def forward(self, x):
        return functional.softmax(self.body(x), -1)


class Reused(nn.Module):
    """One activation between the layers and behind the last."""

    def __init__(self):
        super().__init__()
        self.act = nn.ReLU()
        self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.act(self.c(self.act(self.b(self.act(self.a(x))))))


class Several(nn.Module):
    """Outputs that are a tuple."""

    def __init__(self):
        super().__init__()
        self.a, self.act, self.b = nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)

    def forward(self, x):
        hidden = self.act(self.a(x))
        return self.b(hidden), hidden


class Named(nn.Module):
    """Takes its inputs by name."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.Sigmoid())

    def forward(self, *, features):
        return self.net(features)


def sequential(*last):
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), *last)


@pytest.mark.parametrize(("model", "names", "shape"), [
    (sequential(nn.Softmax(-1)), ["3"], (8, 2)),
    (sequential(nn.Tanh(), nn.Softmax(-1)), ["3", "4"], (8, 2)),
    (Nested(), ["out.0.1"], (8, 2)),
])  # fmt: skip
def test_what_is_called_behind_the_last_layer_is_named_in_order(model, names, shape):
    found, output = trailing_modules(benched(model))

    assert found == names
    assert output.shape == shape
    assert all(isinstance(model.get_submodule(name), nn.Module) for name in found)


def test_outputs_are_those_of_the_first_samples():
    model = sequential(nn.Tanh())
    _, output = trailing_modules(benched(model))

    with torch.no_grad():
        torch.testing.assert_close(output, model(X[:8]))


@pytest.mark.parametrize(("model", "why"), [
    (sequential(), "stands behind the last layer"),
    (nn.Linear(3, 2), "stands behind the last layer"),
    (Functional(), "goes on with functions"),
    (sequential(*[nn.Tanh()] * 2), "more than once"),
])  # fmt: skip
def test_what_cannot_be_exchanged_is_refused_in_one_line(model, why):
    with pytest.raises(NotPossible, match=why) as refusal:
        trailing_modules(benched(model))

    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("model", "names"), [
    (sequential(nn.ReLU()), ["1"]),  # the last stands behind the last layer
    (Nested(), ["first.act"]),
    (Functional(), ["body.1"]),
    (Reused(), ["act"]),
    (Several(), ["act"]),
])  # fmt: skip
def test_hidden_activations_are_those_called_between_layers(model, names):
    loss = (lambda o, y: sum_of(o[0], y)) if isinstance(model, Several) else sum_of

    assert hidden_activations(benched(model, loss=loss), RELU) == names


@pytest.mark.parametrize("model", [nn.Linear(3, 2), sequential(), nn.Sequential(nn.Linear(3, 2), nn.ReLU())])  # fmt: skip
def test_a_model_without_hidden_activations_of_the_kind_says_so(model):
    kinds = (nn.Tanh,) if len(list(model.children())) == 3 else RELU
    with pytest.raises(NotPossible, match=f"the model has no {kinds[0].__name__}"):
        hidden_activations(benched(model), kinds)


def test_outputs_that_are_a_tuple_have_no_last_module():
    with pytest.raises(NotPossible, match="no tensor"):
        trailing_modules(benched(Several(), loss=lambda o, y: sum_of(o[0], y)))


def test_batches_and_inputs_may_be_dictionaries():
    model = Named()
    problem = Problem(
        model,
        [{"features": X[:6], "y": X[:6, :2]}, {"features": X[6:], "y": X[6:, :2]}],
        batch_loss=lambda m, b: functional.mse_loss(m(features=b["features"]), b["y"]),
    )
    bench = Bench(Run(problem, torch.optim.SGD(model.parameters(), 0.1)), problem)

    assert trailing_modules(bench)[0] == ["net.3"]
    assert hidden_activations(bench, RELU) == ["net.1"]


def test_a_loss_that_calls_only_a_part_of_the_model_is_refused():
    model = sequential(nn.Tanh())
    problem = Problem(
        model, [X], batch_loss=lambda m, b: sum_of(m[0](b), b) + 0 * m[2].weight.sum()
    )
    bench = Bench(Run(problem, torch.optim.SGD(model.parameters(), 0.1)), problem)
    for look in (trailing_modules, lambda b: hidden_activations(b, RELU)):
        with pytest.raises(NotPossible, match="does not call the model"):
            look(bench)


def test_a_function_without_modules_has_nothing_to_exchange():
    problem = Problem.from_function(lambda x: (x * x).sum(), torch.ones(2))
    bench = Bench(Run(problem, torch.optim.SGD(problem.model.parameters(), 0.1)), problem)

    with pytest.raises(NotPossible):
        trailing_modules(bench)
    with pytest.raises(NotPossible):
        hidden_activations(bench, RELU)


@pytest.mark.parametrize("name", ["out.0.1", "first.act", "out"])
def test_an_exchange_replaces_that_module_and_no_other(name):
    model, new = Nested(), nn.Sequential(nn.Identity())
    others = {n: m for n, m in model.named_modules() if not f"{n}.".startswith(f"{name}.")}
    exchange(model, name, new)

    assert model.get_submodule(name) is new
    assert all(model.get_submodule(n) is m for n, m in others.items())


def test_looking_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2), nn.Tanh())
    model[1].eval()
    bench = benched(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    trailing_modules(bench)
    hidden_activations(bench, RELU)

    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert not any(m._forward_hooks for m in model.modules())


def test_looking_leaves_no_hook_when_the_model_fails():
    model, fails = sequential(nn.Tanh()), []

    def loss(m, batch):
        if fails:
            raise ValueError("planted")
        return sum_of(m(batch), batch)

    problem = Problem(model, [X], batch_loss=loss)
    bench = Bench(Run(problem, torch.optim.SGD(model.parameters(), 0.1)), problem)
    fails.append(True)
    with pytest.raises(ValueError, match="planted"):
        trailing_modules(bench)

    assert not any(m._forward_hooks for m in bench.objective.modules())


def shared():
    act = nn.ReLU()
    return nn.Sequential(nn.Linear(3, 4), act, nn.Linear(4, 4), act, nn.Linear(4, 2))


def test_an_activation_held_under_two_names_is_named_once_and_exchanged_under_both():
    model, new = shared(), nn.ELU()
    (name,) = hidden_activations(benched(model), RELU)
    exchange(model, name, new)

    assert name == "1"
    assert [type(m) for m in model] == [nn.Linear, nn.ELU, nn.Linear, nn.ELU, nn.Linear]
    assert model[1] is model[3] is new


def test_a_twin_that_is_another_module_is_not_exchanged():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    other = model[3]
    exchange(model, "1", nn.ELU())

    assert model[3] is other


def test_an_output_activation_that_is_also_a_hidden_one_is_not_exchanged_inside():
    act = nn.Tanh()
    model = nn.Sequential(nn.Linear(3, 4), act, nn.Linear(4, 2), act)
    try:
        names, _ = trailing_modules(benched(model))
    except NotPossible:
        return
    assert names == ["3"]


def test_what_only_shapes_the_output_is_not_exchanged():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten())
    images = torch.randn(12, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(NotPossible):
        trailing_modules(benched(model, images))


def test_an_activation_that_passes_these_samples_on_is_one_all_the_same():
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    with torch.no_grad():
        model[0].bias.fill_(100.0)

    assert trailing_modules(benched(model))[0] == ["1"]
