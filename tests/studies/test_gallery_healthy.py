"""The healthy trainings of the gallery are healthy by criteria that ask no diagnosis."""

from functools import cache
from statistics import mean

import pytest
import torch
from torch.nn import CrossEntropyLoss

from unstick.studies.gallery import STAGES, all_healthy
from unstick.studies.gallery.training import Training

pytestmark = pytest.mark.slow

HEALTHY = {healthy.name: healthy for healthy in all_healthy()}
CLASSIFIERS = [
    name
    for name, healthy in HEALTHY.items()
    if isinstance(healthy.training, Training)
    and isinstance(healthy.training.loss, CrossEntropyLoss)
]
STAGE_NAMES = ("early", "middle", "late")
FLOORS = {  # accuracy on all data at the end, where it is not 0.9
    "blobs-linear-sgd": 0.6,  # clouds that overlap
    "blobs-relu-adam": 0.6,
    "mnist1d-convolutions-adam": 0.75,
    "exponential-activation-repaired": 0.8,
    "one-sample-batches-repaired": 0.8,
    "relu-probabilities-repaired": 0.75,
}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def late(name):
    return HEALTHY[name].start(0, "late")


@cache
def early(name):
    return HEALTHY[name].start(0, "early")


def test_there_are_forty_kinds_with_names_of_their_own():
    assert len(HEALTHY) == len(all_healthy())
    assert len(HEALTHY) * len(STAGES) >= 120
    assert tuple(STAGES) == STAGE_NAMES


@pytest.mark.parametrize("name", HEALTHY)
def test_a_late_training_is_at_its_goal(name):
    assert late(name).problem.value() <= HEALTHY[name].goal


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_late_classifier_is_right(name):
    inputs, targets = HEALTHY[name].training.data()
    model = late(name).problem.model.eval()  # trained here, where no other test has asked for it
    with torch.no_grad():
        chosen = model(inputs).argmax(1)

    assert float((chosen == targets).float().mean()) >= FLOORS.get(name, 0.9)


@pytest.mark.parametrize("name", HEALTHY)
def test_an_early_training_is_the_beginning_of_the_late_one_and_has_far_to_go(name):
    began, ended = early(name), late(name)

    assert began.history.loss == ended.history.loss[: len(began.history.loss)]
    assert began.problem.value() > 1.05 * ended.problem.value()


@pytest.mark.parametrize("name", HEALTHY)
def test_the_loss_falls_from_stage_to_stage(name):
    losses = late(name).history.loss
    first, quarter = (round(STAGES[stage] * len(losses)) for stage in ("early", "middle"))

    start = mean(losses[: max(1, first // 2)])
    middle = mean(losses[quarter : 2 * quarter])
    end = mean(losses[-quarter:])
    assert start > middle
    assert middle >= 0.95 * end


@pytest.mark.parametrize("stage", STAGE_NAMES)
def test_a_schedule_and_a_clipping_norm_travel_with_the_run(stage):
    run = HEALTHY["digits-relu-cosine"].start(1, stage)
    clipped = HEALTHY["digits-relu-clipped-at-1"].start(1, "early")

    assert run.scheduler.last_epoch == len(run.history.loss)
    assert 0.002 <= run.optimizer.param_groups[0]["lr"] <= 0.2
    assert clipped.clip_norm == 1.0


def test_kinds_of_models_optimizers_and_batches_vary():
    runs = [early(name) for name in HEALTHY]
    modules = {type(part).__name__ for run in runs for part in run.problem.model.modules()}
    optimizers = {type(run.optimizer).__name__ for run in runs}

    assert {"SGD", "Adam", "AdamW", "RMSprop"} <= optimizers
    assert {"Conv2d", "Conv1d", "LSTM", "GRU", "TransformerEncoderLayer"} <= modules
    assert {"BatchNorm1d", "BatchNorm2d", "LayerNorm", "Dropout"} <= modules
    assert {"ReLU", "Tanh", "GELU", "ELU", "Sigmoid"} <= modules
    assert len({run.batch_size for run in runs}) >= 6
