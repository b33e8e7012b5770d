"""What fits is loaded, what does not is kept and named, and a refusal changes nothing."""

import pytest
import torch
from torch import nn

from cases import network
from training.cases import same, values
from unstick.errors import BadCheckpoint, BadModel, NonFinite
from unstick.training.pretrained import load_pretrained


def test_a_pretrained_body_is_loaded_under_a_head_of_another_size():
    old, new = network(6, 5, 10, seed=1), network(6, 5, 3, seed=2)
    own = new[2].weight.detach().clone()

    done = load_pretrained(new, {**old.state_dict(), "extra": torch.zeros(2)})

    assert done.loaded == ("0.weight", "0.bias")
    assert [(k.name, k.shape, k.given) for k in done.kept] == [
        ("2.weight", (3, 5), (10, 5)),
        ("2.bias", (3,), (10,)),
    ]
    assert done.unused == ("extra",)
    assert torch.equal(new[0].weight, old[0].weight)
    assert torch.equal(new[2].weight, own)
    assert "[3, 5]; given: [10, 5]" in str(done)


def test_a_pretrained_state_brings_buffers_and_can_be_limited_to_a_pattern():
    old = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)).double()
    old[1].running_mean.fill_(4.0)
    new = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    head = new[2].weight.detach().clone()

    done = load_pretrained(new, old.state_dict(), only=["0.*", "1.*"])

    assert not done.kept
    assert new[1].running_mean.tolist() == [4.0] * 3
    assert new[0].weight.dtype == torch.float32
    assert torch.equal(new[2].weight, head)


def test_a_state_that_does_not_fit_changes_nothing():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    before = values(model)
    wrapped = {f"module.{name}": t + 1 for name, t in model.state_dict().items()}
    counter = {"1.num_batches_tracked": torch.tensor(5), "0.weight": torch.zeros(9, 9)}
    broken = {**model.state_dict(), "0.bias": torch.tensor([0.0, float("nan"), 0.0])}

    for state in (wrapped, counter):
        with pytest.raises(BadCheckpoint, match="no parameter of the state fits"):
            load_pretrained(model, state)
    with pytest.raises(BadCheckpoint, match="no tensor by name \\(it has model, epoch\\)"):
        load_pretrained(model, {"model": model.state_dict(), "epoch": 3})
    with pytest.raises(NonFinite, match=r"0\.bias"):
        load_pretrained(model, broken)
    with pytest.raises(BadModel, match="nothing in the model matches 'head"):
        load_pretrained(model, model.state_dict(), only="head.*")
    assert same(model, before)
