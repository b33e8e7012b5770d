"""A diagnosis names the cause, tries a way out, draws it, and leaves the model as it was."""

import pytest
import torch
from torch import nn

from cases import ORACLES, digits, network, train, zeroed
from unstick.diagnosis.cause import Cause
from unstick.diagnosis.diagnosing import diagnose
from unstick.problem.problem import Problem

RESTING = {Cause.LOCAL_MINIMUM, Cause.MODEL_FLOOR}  # which of them, random starts tell
CAUSES = {
    "saddle": {Cause.STRICT_SADDLE},
    "maximum": {Cause.STRICT_SADDLE},
    "degenerate": RESTING,
    "minimum": RESTING,
    "not-critical": {Cause.UNDECIDED},
}


def stuck():
    inputs, targets = digits()
    model = zeroed(network(64, 32, 10))
    train(model, torch.optim.SGD(model.parameters(), 0.2), inputs, targets, updates=200)
    return model, Problem(model, (inputs, targets), nn.CrossEntropyLoss())


@pytest.mark.parametrize("oracle", ORACLES, ids=str)
def test_each_kind_has_its_cause_and_what_can_be_escaped_is_shown_to_escape(oracle):
    problem = oracle.problem()
    diagnosis = diagnose(problem, pictures=False)

    descends = oracle.kind == "degenerate" and oracle.descends
    assert diagnosis.cause in ({Cause.DEGENERATE_POINT} if descends else CAUSES[oracle.kind])
    if diagnosis.cause != Cause.UNDECIDED:
        assert diagnosis.causes[0].reasons[0] == diagnosis.point.proof
    assert (diagnosis.escape is not None) == (oracle.descends and oracle.kind != "not-critical")
    if diagnosis.escape is not None:
        assert diagnosis.escape.loss_after < diagnosis.escape.loss_before
    assert problem.parameters().tolist() == list(oracle.x0)


def test_a_stuck_network_is_diagnosed_drawn_and_left_bit_for_bit():
    model, problem = stuck()
    before = [p.clone() for p in model.parameters()]

    diagnosis = diagnose(problem)

    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    portrait = diagnosis.portrait
    assert diagnosis.outcome == portrait.outcome == "complete"
    assert [line.name for line in portrait.lines] == ["escape direction v", "negative gradient −g"]
    way_out = portrait.lines[0]
    assert float(way_out.losses.min()) <= diagnosis.escape.loss_after + 0.05
    assert way_out.curvature < 0
    assert portrait.plane.losses.shape == (31, 31)
    assert portrait.density.starts >= 2
    assert [layer.name for layer in portrait.layers] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert abs(sum(layer.escape_share for layer in portrait.layers) - 1) < 1e-6
    norms = sum(layer.gradient_norm**2 for layer in portrait.layers)
    assert abs(norms**0.5 - diagnosis.point.gradient_norm) < 1e-9


def test_the_pictures_of_many_samples_are_of_a_subset_and_say_so():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(5000, 6, generator=generator)
    targets = (inputs[:, 0] > 0).long()
    model = zeroed(network(6, 4, 2))

    portrait = diagnose(Problem(model, (inputs, targets), nn.CrossEntropyLoss())).portrait

    assert (portrait.samples, portrait.of_samples) == (2048, 5000)
    assert "2,048 of 5,000 samples" in portrait.headline()


@pytest.mark.parametrize("stage", ["Hessian products", "escape", "plane", "density"])
def test_an_interruption_at_any_stage_leaves_the_best_answer_and_the_model(stage):
    model, problem = stuck()
    before = [p.clone() for p in model.parameters()]

    def press(name, done, total):
        if name == stage:
            raise KeyboardInterrupt

    diagnosis = diagnose(problem, progress=press)

    assert diagnosis.outcome == "interrupted"
    assert diagnosis.point.loss > 2
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    if stage in ("plane", "density"):
        assert diagnosis.cause == Cause.STRICT_SADDLE
        assert diagnosis.portrait.lines


def test_a_function_of_one_variable_has_lines_but_no_plane():
    portrait = diagnose(Problem.from_function(lambda x: torch.cos(x[0]), torch.zeros(1))).portrait

    assert portrait.plane is None
    assert portrait.lines


def test_the_same_seed_gives_the_same_diagnosis():
    _, problem = stuck()
    first, second = (diagnose(problem, seed=5, pictures=False) for _ in range(2))

    assert first.summary == second.summary
    assert torch.equal(first.escape.direction, second.escape.direction)
