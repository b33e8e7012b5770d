"""What a verdict costs, how it ends early, and how it refuses."""

import pytest
import torch
from torch import nn

from cases import digits, network, toy, zeroed
from unstick.critical.classifying import classify
from unstick.critical.curvature import curvature_ends, spectral_density
from unstick.critical.taylor import predicted_decrease, profile
from unstick.errors import BadData, BudgetTooSmall
from unstick.problem.problem import Problem


def stuck():
    inputs, targets = digits()
    return Problem(zeroed(network(64, 64, 10)), (inputs, targets), nn.CrossEntropyLoss())


def test_the_budget_bounds_the_cost_of_a_verdict_by_lanczos():
    inputs, targets = digits()
    for budget in (60, 120, 240):
        problem = Problem(network(64, 64, 10, seed=1), (inputs, targets), nn.CrossEntropyLoss())
        point = classify(problem, budget=budget)
        assert point.cost.gradients <= budget
        assert point.cost.seconds > 0
        assert point.cost.samples > 0


def test_an_interruption_leaves_the_best_answer_so_far():
    problem = stuck()

    def press(stage, done, total):
        if stage == "Hessian products" and done >= 3:
            raise KeyboardInterrupt

    point = classify(problem, progress=press)

    assert point.outcome == "interrupted"
    assert "best answer so far" in str(point)
    assert point.gradient_norm > 0
    assert point.slope_decrease >= 0


def test_progress_names_each_stage_and_never_runs_over():
    seen = []
    classify(stuck(), progress=lambda stage, done, total: seen.append((stage, done, total)))

    assert {"slope", "Hessian products", "negative curvature"} <= {stage for stage, _, _ in seen}
    assert all(0 <= done <= total for _, done, total in seen)


@pytest.mark.parametrize("call", [classify, curvature_ends])
def test_a_budget_too_small_for_any_answer_is_one_clear_line(call):
    with pytest.raises(BudgetTooSmall) as refusal:
        call(stuck(), budget=2)

    assert "\n" not in str(refusal.value)
    assert "raise the budget" in str(refusal.value)


def test_a_point_tells_the_same_story_in_print_and_in_a_notebook():
    point = classify(Problem.from_function(toy, torch.zeros(2)))

    told, page = str(point), point._repr_html_()

    assert told.index("saddle") < told.index("\n  proof ") < told.index("\n  loss ")
    assert point.headline() in page
    assert "vᵀHv" in page
    assert "vᵀHv" in told


def test_the_taylor_model_is_exact_for_a_quadratic():
    A = torch.tensor([[2.0, 1.0], [1.0, -3.0]], dtype=torch.float64)
    problem = Problem.from_function(lambda x: 0.5 * x @ A @ x + x[0], torch.tensor([0.5, -1.0]))

    line = profile(problem, torch.tensor([3.0, 4.0]), steps=torch.linspace(-2, 2, 9))

    torch.testing.assert_close(line.losses, line.predicted, rtol=1e-12, atol=1e-12)
    s = torch.tensor([0.3, -0.7], dtype=torch.float64)
    x = problem.parameters()
    decrease = problem.value() - float(problem.values((x + s).unsqueeze(0))[0])
    assert abs(predicted_decrease(problem, s) - decrease) < 1e-12


def test_a_zero_direction_is_refused():
    with pytest.raises(BadData, match="length 0"):
        profile(Problem.from_function(toy, torch.zeros(2)), torch.zeros(2), steps=torch.ones(1))


def test_both_ends_match_the_dense_hessian():
    inputs, targets = digits()
    model = network(64, 8, 10)
    problem = Problem(model, (inputs, targets), nn.CrossEntropyLoss())

    ends = curvature_ends(problem, lowest=2, highest=3, tolerance=1e-6, budget=2000)
    dense = torch.linalg.eigvalsh(problem.hessian().matmat(torch.eye(problem.n).double()))

    torch.testing.assert_close(ends.lowest.values, dense[:2], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(ends.highest.values, dense.flip(0)[:3], rtol=1e-6, atol=1e-9)


def test_the_density_has_unit_mass_and_covers_both_ends():
    problem = stuck()
    density = spectral_density(problem, starts=3, steps=20)

    spacing = float(density.grid[1] - density.grid[0])
    assert abs(float(density.density.sum()) * spacing - 1) < 1e-6
    assert density.grid[0] < -0.2
    assert density.grid[-1] > 0.2
