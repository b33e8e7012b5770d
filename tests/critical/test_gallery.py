"""Planted spectra: no wrong verdict in either precision, dense or by Lanczos, and "undecided" only where it must be."""

import pytest
import torch

from cases_spectra import (
    CLUSTERED,
    DTYPES,
    FLAT,
    PLUS_MINUS,
    REPEATED,
    SADDLE,
    SPECTRA,
    STIFF,
    TINY_NEGATIVE,
)
from unstick.critical import classifying
from unstick.critical.classifying import classify
from unstick.problem.problem import Problem

TRUTH = {
    SADDLE: "saddle",
    PLUS_MINUS: "saddle",
    CLUSTERED: "saddle",
    REPEATED: "saddle",
    TINY_NEGATIVE: "saddle",
    STIFF: "minimum",
    FLAT: "degenerate",
}
MUST_TELL = {  # where the smallest |λ| ≠ 0 that decides is well above the arithmetic's noise
    torch.float64: {SADDLE, PLUS_MINUS, CLUSTERED, REPEATED, TINY_NEGATIVE, STIFF, FLAT},
    torch.float32: {SADDLE, PLUS_MINUS, CLUSTERED, REPEATED, FLAT},
}


def quadratic(spectrum, seed, dtype):
    A = spectrum.matrix(seed, dtype)
    return Problem.from_function(
        lambda x: 0.5 * x @ (A @ x), torch.zeros(len(A), dtype=dtype), dtype=dtype
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("spectrum", SPECTRA, ids=str)
def test_a_dense_verdict_is_never_wrong(spectrum, dtype, seed):
    point = classify(quadratic(spectrum, seed, dtype), seed=seed)

    assert point.kind in {TRUTH[spectrum], "undecided"}
    assert point.kind == TRUTH[spectrum] or spectrum not in MUST_TELL[dtype]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("spectrum", SPECTRA, ids=str)
def test_a_verdict_by_lanczos_is_never_wrong(spectrum, dtype, seed, monkeypatch):
    monkeypatch.setattr(classifying, "is_small", lambda problem: False)

    point = classify(quadratic(spectrum, seed, dtype), seed=seed, budget=300)

    assert point.inertia is None
    assert point.kind in {TRUTH[spectrum], "undecided"}
    if TRUTH[spectrum] == "saddle" and spectrum in MUST_TELL[dtype]:
        assert point.kind == "saddle"


@pytest.mark.parametrize("seed", range(5))
def test_few_products_leave_a_large_bowl_undecided_and_say_what_may_be_hidden(seed, monkeypatch):
    monkeypatch.setattr(classifying, "is_small", lambda problem: False)
    scale = torch.logspace(-6, 0, 2000, dtype=torch.float64)
    problem = Problem.from_function(
        lambda x: 0.5 * (scale * x * x).sum(), torch.zeros(2000).double()
    )

    point = classify(problem, seed=seed, budget=120)

    assert point.kind == "undecided"
    assert "probability" in point.proof
    assert point.lambda_min.low < 0
    assert point.lambda_min.low_confidence < 1


@pytest.mark.parametrize("seed", range(5))
def test_one_negative_eigenvalue_among_two_thousand_is_proved(seed, monkeypatch):
    monkeypatch.setattr(classifying, "is_small", lambda problem: False)
    scale = torch.linspace(0, 1, 2000, dtype=torch.float64)
    scale[1234] = -0.05
    problem = Problem.from_function(
        lambda x: 0.5 * (scale * x * x).sum(), torch.zeros(2000).double()
    )

    point = classify(problem, seed=seed)

    v = point.lowest_directions[:, 0]
    assert point.kind == "saddle"
    assert float((v * scale) @ v) < 0  # the proof, checked by hand
