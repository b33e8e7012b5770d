"""Mean and deviation are NumPy's, and what is constant is known exactly."""

import numpy as np
import pytest
import torch

from unstick.data import Dataset
from unstick.data.statistics import statistics
from unstick.errors import BadData
from unstick.training.standardizing import Standardizer


def randn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(
    ("shape", "over", "kept"),
    [
        ((30, 4), (0,), (1, 4)),
        ((30, 4, 5), (0,), (1, 4, 5)),
        ((9, 3, 5, 4), (0, 2, 3), (1, 3, 1, 1)),
        ((30,), (0,), (1,)),
    ],
)
def test_features_are_taken_one_by_one_and_images_channel_by_channel(shape, over, kept):
    inputs = 5 + 3 * randn(*shape)
    found = statistics(inputs)

    assert found.mean.shape == found.deviation.shape == kept
    np.testing.assert_allclose(
        found.mean.squeeze(), inputs.numpy().mean(over).squeeze(), rtol=1e-13
    )
    np.testing.assert_allclose(found.deviation.squeeze(), inputs.numpy().std(over).squeeze(), rtol=1e-13)  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.uint8])
def test_statistics_are_in_float64_whatever_the_inputs_are(dtype):
    found = statistics((10 * randn(20, 3).abs()).to(dtype))

    assert found.mean.dtype == found.deviation.dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("samples", [1, 3, 50, 999])
def test_whoever_standardizes_moves_a_constant_to_0_exactly(samples, dtype):
    constant = torch.full((samples, 1), 0.7, dtype=torch.float64)
    inputs = torch.cat([constant, randn(samples, 1)], 1).to(dtype)
    targets = torch.zeros(samples).long()

    found = statistics(inputs)
    data = Dataset("one", inputs, targets, inputs, targets, "", classes=1).standardized()

    assert found.mean[0, 0] == inputs[0, 0].double()
    assert found.deviation[0, 0] == 1.0
    assert not data.train_inputs[:, 0].any()
    assert not data.test_inputs[:, 0].any()
    assert not Standardizer.fit(inputs).apply(inputs)[:, 0].any()


def test_what_varies_by_one_bit_is_no_constant():
    inputs = torch.full((50, 1), 0.7, dtype=torch.float64)
    inputs[7] = np.nextafter(0.7, 1.0)

    assert 0 < float(statistics(inputs).deviation) < 1e-15


def test_no_sample_is_refused():
    for inputs in (torch.empty(0, 3), torch.tensor(1.0)):
        with pytest.raises(BadData, match="expected at least one sample"):
            statistics(inputs)
