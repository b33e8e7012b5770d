"""The demonstration really gets stuck, really escapes and really learns."""

import os

import pytest

from unstick.errors import BadData
from unstick.studies.demo import WAYS, demonstrate

DATA = os.environ.get("UNSTICK_DATA")


@pytest.mark.parametrize("seed", [0, 1])
def test_digits_stand_still_on_a_saddle_and_are_learned_after_the_escape(seed):
    said = []
    shown = demonstrate(seed=seed, pictures=False, say=said.append)

    assert shown.accuracy_stalled < 0.15
    assert 2.29 < shown.stalled.loss[-1] < 2.31
    assert shown.diagnosis.point.kind == "saddle"
    assert shown.moved.loss_after < 1.0
    assert shown.resumed.loss[0] == pytest.approx(shown.moved.loss_after, rel=1e-3)
    assert shown.accuracy_resumed > 0.95
    assert shown.test_accuracy > 0.9
    assert len(said) >= 5


@pytest.mark.skipif(DATA is None, reason="UNSTICK_DATA names no folder with MNIST")
def test_mnist_is_proved_and_escaped_in_at_most_60_gradients():
    shown = demonstrate(data="mnist", folder=DATA, pictures=False)

    assert (shown.parameters, shown.samples) == (101_770, 60_000)
    assert shown.diagnosis.point.kind == "saddle"
    assert shown.moved.loss_after < 1.5
    assert shown.diagnosis.cost.gradients <= 60  # verdict, proof and escape
    assert shown.accuracy_resumed > 0.95


def test_an_unknown_demonstration_is_refused_with_what_there_is():
    with pytest.raises(BadData, match=", ".join(WAYS)):
        demonstrate(data="imagenet")
