"""Each rule fires on its fault, and neither on a healthy training nor on what only looks like the fault."""

import math
from dataclasses import replace
from itertools import product

import pytest
import torch

from unstick.critical.point import Kind, Point
from unstick.diagnosis.cause import Cause
from unstick.diagnosis.course import Course
from unstick.diagnosis.evidence import Evidence, Outcome, Steps
from unstick.diagnosis.reach import Reach
from unstick.diagnosis.rules import EXPLAINS, LEARNED, OFFSET, RULES, SPREAD, support
from unstick.diagnosis.signals import LayerState, Signals
from unstick.problem.cost import Cost

NAN, INF = math.nan, math.inf

POINT = Point(
    kind=Kind.NOT_CRITICAL,
    proof="planted",
    loss=0.5,
    gradient_norm=0.1,
    gradient_standard_error=None,
    lambda_min=None,
    lambda_max=None,
    inertia=None,
    minimum_ratio=None,
    noise_floor=0.0,
    tau=0.0,
    slope_decrease=0.01,
    curvature_decrease=0.0,
    loss_noise=0.0,
    escape_direction=None,
    escape_step=0.0,
    lowest_curvatures=torch.empty(0),
    lowest_directions=torch.empty(4, 0),
    eigenvalues=torch.empty(0),
    parameters=4,
    notes=(),
    outcome="complete",
    cost=Cost(),
)
COURSE = Course(
    updates=400,
    finite=400,
    first=0.9,
    last=0.5,
    lowest=0.49,
    highest=1.0,
    trend=0.0,
    trend_error=0.01,
    scatter=0.02,
    swings=0.66,
)
LAYER = LayerState(name="0", units=10, dead=0.0, copies=0.0, saturated=0.0, gradient=0.1)
SIGNALS = Signals(
    layers=(LAYER, replace(LAYER, name="2")),
    still=(),
    stays_still=(),
    always_still=(),
    still_share=0.0,
    shrinkage=0.5,
    input_size=1.0,
    input_spread=1.0,
    target_size=1.0,
    output_size=1.0,
    outputs_are_shares=False,
    loss_takes_scores=False,
    outputs_constant=False,
    outputs_one_sided=False,
    constant_loss=1.0,
)
STEPS = Steps(
    optimizer="SGD",
    rate=0.1,
    momentum=0.0,
    adaptive=False,
    highest_rate=0.1,
    coupled=0.0,
    decoupled=0.0,
    clip_norm=None,
    batch_size=32,
    sharpness=0.5,
)
GAINS = {"continue": 0.03, "rate ÷ 10": 0.02, "rate × 10": 0.04, "rate × 100": 0.05}
GAINS |= {"momentum": 0.04, "batch × 16": 0.04}


def outcome(gain, data_gain=None, settled=NAN):
    gain = -INF if gain is None else gain  # None: it blew up
    return Outcome(20, 0.5 - gain, gain, gain if data_gain is None else data_gain, settled)


def evidence(**changed):
    """A training half way, which every arm moves a little; changes go to the record that has the field.

    ``arms`` are gains, ``settled`` the batch losses that arms end at, ``without`` names arms that were not tried, ``layer``
    changes the second hidden layer.
    """
    fields = {"point": POINT, "course": COURSE, "signals": SIGNALS, "steps": STEPS}
    arms = GAINS | changed.pop("arms", {})
    for name in changed.pop("without", ()):
        del arms[name]
    own = {"loss": 0.5, "bound": 0.0, "level": 1.0, "level_known": True, "without_decay": None}
    settled = changed.pop("settled", {})
    own["arms"] = {n: outcome(gain, settled=settled.get(n, NAN)) for n, gain in arms.items()}
    data_gain = changed.pop("data_gain", None)
    if data_gain is not None:
        own["arms"]["no decay"] = outcome(0.0, data_gain)
    if (layer := changed.pop("layer", None)) is not None:
        fields["signals"] = replace(SIGNALS, layers=(LAYER, replace(LAYER, name="2", **layer)))
    for name, value in changed.items():
        if name in own or name in fields or name in ("restarts", "missing"):
            fields[name] = value
            continue
        holders = [k for k in ("point", "course", "signals", "steps") if hasattr(fields[k], name)]
        assert holders, name
        fields[holders[0]] = replace(fields[holders[0]], **{name: value})
    return Evidence(**(own | fields))


def causes(told):
    return [one.cause for one in told]


C = Cause
FEW = dict.fromkeys(GAINS, 0.001)
BLOWN = {"finite": 300}
SILENT = {"still": ("0.weight", "0.bias"), "stays_still": ("0.weight", "0.bias")}
SADDLE = {"kind": Kind.SADDLE, "curvature_decrease": 0.05}
SLOW = {"continue": 0.001, "rate × 10": 0.002, "rate × 100": None, "momentum": 0.01}
ALL = {"without": ("batch × 16",)}  # the run takes all samples


def decades(least, *, times=10.0):
    """Gains that grow so many times with ten times the rate."""
    names = ("continue", "rate × 10", "rate × 100", "rate × 1000")
    return {name: least * times**k for k, name in enumerate(names)}


def unreachable(floor, *, free=0.0, shares=True):
    return {"reach": Reach(0.0, 1.0 if shares else INF, shares, floor, free)}


CASES = [  # cause, fault, near miss
    (C.PROGRESSING, {"trend": -0.2, "trend_error": 0.01}, {"trend": -0.01, "trend_error": 0.001}),
    (C.PROGRESSING, {"trend": -0.2, "trend_error": 0.01}, {"trend": -0.2, "trend_error": 0.15}),
    (C.PROGRESSING, {"trend": -0.2, "trend_error": 0.01, "loss": 0.95},
     {"trend": -0.2, "trend_error": 0.01, "loss": 0.95, "highest": 1e6}),  # back from an explosion
    (C.PROGRESSING, {"updates": 50, "finite": 50}, {"updates": 150, "finite": 150}),
    (C.PROGRESSING, {"course": None, "arms": {"continue": 0.05}}, {"course": None}),
    (C.PROGRESSING, {"settled": {"continue": 0.4}}, {"settled": {"continue": 0.48}}),
    (C.PROGRESSING, {"settled": {"continue": 0.4}}, {"settled": {"continue": 0.4}, "scatter": 0.1}),
    (C.PROGRESSING, {"loss": 0.9 * LEARNED}, {"loss": 1.1 * LEARNED}),
    (C.PROGRESSING, {"loss": 0.9 * LEARNED}, {"loss": 0.9 * LEARNED, "level_known": False}),
    (C.NON_FINITE, BLOWN, {}),
    (C.ZERO_GRADIENT_PATH, {"always_still": ("0.weight", "0.bias"), **SILENT, "arms": FEW},
     {**SILENT, "arms": FEW}),
    (C.ZERO_GRADIENT_PATH, {"always_still": ("0.weight",), "still": ("0.weight",), "arms": FEW,
                            "gradient_norm": 0.0},
     {"always_still": ("0.weight",), "still": ("0.weight",), "arms": FEW}),
    (C.ZERO_GRADIENT_PATH, {"always_still": ("0.weight", "0.bias"), **SILENT, "arms": FEW},
     {"always_still": ("0.weight", "0.bias"), **SILENT}),  # and yet an arm gains
    (C.LOSS_OUTPUT_MISMATCH, unreachable(0.3), unreachable(0.05)),
    (C.LOSS_OUTPUT_MISMATCH, unreachable(0.3, shares=False), {"reach": Reach(0.0, INF, False, None, None)}),
    (C.LOSS_OUTPUT_MISMATCH, {**unreachable(-2.0, free=-3.0), "bound": -3.0},
     {**unreachable(-3.0, free=-3.0), "bound": -3.0}),
    (C.LOSS_OUTPUT_MISMATCH, unreachable(0.4), {**unreachable(0.4), "level": 5.0, "loss": 2.5}),
    (C.DEAD_UNITS, {"layer": {"dead": 1.0}}, {"layer": {"dead": 0.4}}),
    (C.DEAD_UNITS, {"layer": {"dead": 0.3}, "still_share": 0.9},
     {"layer": {"dead": 0.3}, "still_share": 0.7}),
    (C.DEAD_UNITS, {"layer": {"dead": 0.96}}, {"layer": {"dead": 0.4, "saturated": 0.9}}),
    (C.SATURATED_UNITS, {"layer": {"saturated": 0.7}}, {"layer": {"saturated": 0.5}}),
    (C.SATURATED_UNITS, {"output_saturated": 0.95}, {"output_saturated": 0.8}),
    (C.SATURATED_UNITS, {"output_saturated": 0.95}, {"output_saturated": 0.95, "loss": 0.25}),  # surely right
    (C.VANISHING_GRADIENT, {"through_time": 1e-6, "loss": 0.9}, {"through_time": 1e-2, "loss": 0.9}),
    (C.VANISHING_GRADIENT, {"through_time": 1e-6, "loss": 0.9}, {"through_time": 1e-6}),  # the last steps suffice
    (C.VANISHING_GRADIENT, {"shrinkage": 5e-4}, {"shrinkage": 1e-2}),
    (C.VANISHING_GRADIENT, {"shrinkage": 5e-4}, {"shrinkage": 5e-4, "layer": {"dead": 1.0}}),
    (C.SYMMETRIC_UNITS, {"layer": {"copies": 1.0}}, {"layer": {"copies": 0.5}}),
    (C.SYMMETRIC_UNITS, {"layer": {"copies": 1.0}}, {"layer": {"copies": 1.0, "dead": 1.0}}),
    (C.UNSCALED_INPUTS, {"input_size": 300.0}, {"input_size": 15.0}),
    (C.UNSCALED_INPUTS, {"input_size": 1e-3}, {"input_size": 0.0}),
    (C.UNSCALED_INPUTS, {"input_spread": 2 * SPREAD}, {"input_spread": SPREAD / 2}),
    (C.UNSCALED_INPUTS, {"input_offset": 2 * OFFSET}, {"input_offset": OFFSET / 2}),
    (C.UNSCALED_TARGETS, {"target_size": 100.0}, {"target_size": 10.0, "output_size": 0.1}),
    (C.UNSCALED_TARGETS, {"target_size": 100.0}, {"target_size": 100.0, "output_size": 50.0}),
    (C.LEARNING_RATE_TOO_LARGE, {**BLOWN, "highest": 1e6}, {**BLOWN, "highest": 3.0}),
    (C.LEARNING_RATE_TOO_LARGE, {"highest": 1e6}, {"highest": 3.0}),
    (C.LEARNING_RATE_TOO_LARGE, {"trend": -0.2, "highest": 1e6, "loss": 0.95},
     {"trend": -0.2, "highest": 3.0, "loss": 0.95}),
    (C.LEARNING_RATE_TOO_LARGE, {**BLOWN, "sharpness": 1.2}, {**BLOWN, "sharpness": None}),
    (C.LEARNING_RATE_TOO_LARGE, {"sharpness": 1.5}, {"sharpness": 0.9}),
    (C.LEARNING_RATE_TOO_LARGE, {"arms": {"rate ÷ 10": 0.1}}, {"arms": {"rate ÷ 10": 0.06}}),
    (C.LEARNING_RATE_TOO_LARGE, {"arms": {"continue": None, "rate ÷ 10": 0.01, "batch × 16": None}},
     {"arms": {"continue": None, "rate ÷ 10": None, "batch × 16": None}}),
    (C.LEARNING_RATE_TOO_LARGE, {"settled": {"continue": 0.5, "rate ÷ 10": 0.4}},
     {"settled": {"continue": 0.5, "rate ÷ 10": 0.47}}),
    (C.LEARNING_RATE_TOO_LARGE, {"last": 2.0}, {"last": 1.5}),
    (C.LEARNING_RATE_TOO_SMALL, {"arms": {"continue": 0.01, "rate × 10": 0.3}},
     {"arms": {"continue": 0.04, "rate × 10": 0.08}}),
    (C.LEARNING_RATE_TOO_SMALL, {"arms": {"continue": 0.0, "rate × 100": 0.3}},
     {"arms": {"continue": 0.0, "rate × 10": None, "rate × 100": 0.3}}),
    (C.LEARNING_RATE_TOO_SMALL, {"arms": decades(1e-5)}, {"arms": decades(1e-6)}),  # a thousandth is nothing
    (C.LEARNING_RATE_TOO_SMALL, {"arms": decades(1e-5)}, {"arms": decades(1e-3, times=2.0)}),
    (C.LEARNING_RATE_TOO_SMALL, {"arms": decades(4e-5) | {"rate × 1000": None}},
     {"arms": decades(1e-5) | {"rate × 1000": None}}),
    (C.SCHEDULE_EXHAUSTED, {"rate": 1e-3, "arms": {"highest rate": 0.3}},
     {"rate": 1e-2, "arms": {"highest rate": 0.3}}),
    (C.SCHEDULE_EXHAUSTED, {"rate": 1e-3, "arms": {"highest rate": 0.3}},
     {"rate": 1e-3, "arms": {"highest rate": 0.04}}),
    (C.GRADIENT_CLIPPING, {"arms": {"no clipping": 0.3}}, {"arms": {"no clipping": 0.04}}),
    (C.OVER_REGULARIZED, {"coupled": 0.1, "data_gain": 0.2}, {"coupled": 0.1, "data_gain": 0.05}),
    (C.OVER_REGULARIZED, {"decoupled": 0.1, "data_gain": 0.2}, {"data_gain": 0.2}),
    (C.OVER_REGULARIZED, {"coupled": 0.1, "without_decay": replace(POINT, slope_decrease=0.3)},
     {"coupled": 0.1, "without_decay": replace(POINT, slope_decrease=0.02)}),
    (C.OVER_REGULARIZED, {"coupled": 0.1, "without_decay": replace(POINT, slope_decrease=0.3)},
     {"coupled": 0.1, "without_decay": replace(POINT, slope_decrease=0.3), "slope_decrease": 0.2}),
    (C.OVER_REGULARIZED, {"coupled": 0.1, "loss": 0.9}, {"coupled": 0.1}),  # half of the way is done
    (C.OVER_REGULARIZED, {"coupled": 0.1, "loss": 0.9}, {"coupled": 0.01, "loss": 0.9}),
    (C.OVER_REGULARIZED, {"coupled": 0.01, "momentum": 0.9, "loss": 0.9}, {"coupled": 0.01, "loss": 0.9}),
    (C.OVER_REGULARIZED, {"decoupled": 0.1, "adaptive": True, "loss": 0.9},
     {"coupled": 0.1, "adaptive": True, "loss": 0.9}),  # Adam makes its steps as long as ever
    (C.ILL_CONDITIONED_VALLEY, {**ALL, "arms": SLOW}, {**ALL, "arms": SLOW | {"momentum": 0.003}}),
    (C.ILL_CONDITIONED_VALLEY, {**ALL, "arms": SLOW}, {**ALL, "arms": SLOW | {"rate × 10": 0.006}}),
    (C.ILL_CONDITIONED_VALLEY, {**ALL, "arms": SLOW}, {**ALL, "arms": SLOW, "sharpness": 0.05}),
    (C.ILL_CONDITIONED_VALLEY, {**ALL, "arms": SLOW}, {**ALL, "arms": SLOW, "momentum": 0.9}),  # it has that
    (C.ILL_CONDITIONED_VALLEY, {**ALL, "arms": SLOW}, {**ALL, "arms": SLOW, "trend": -0.2, "trend_error": 0.01}),
    (C.ILL_CONDITIONED_VALLEY, {**ALL, "arms": SLOW}, {**ALL, "arms": SLOW | {"continue": 0.0}}),  # it stands
    (C.ILL_CONDITIONED_VALLEY, {**ALL, "arms": SLOW}, {**ALL, "arms": SLOW, "updates": 50, "finite": 50}),
    (C.ILL_CONDITIONED_VALLEY, {**ALL, "arms": SLOW},
     {**ALL, "arms": {name: 1e-3 * (gain or 1) for name, gain in SLOW.items()}}),  # to no use at all
    (C.ILL_CONDITIONED_VALLEY,
     {"without": ("batch × 16", "rate × 100"), "arms": {"continue": 0.001, "rate × 10": 0.01, "momentum": 0.2}},
     {"without": ("batch × 16", "rate × 100"), "arms": {"continue": 0.001, "rate × 10": 0.15, "momentum": 0.2}}),
    (C.ILL_CONDITIONED_VALLEY,
     {"without": ("batch × 16",), "arms": {"continue": 0.001, "rate × 10": None, "momentum": 0.2}},
     {"arms": {"continue": 0.001, "rate × 10": None, "momentum": 0.2}}),  # batches are small
    (C.ILL_CONDITIONED_VALLEY,
     {"without": ("batch × 16",), "arms": {"continue": 0.001, "rate × 10": None, "momentum": 0.2}},
     {"without": ("batch × 16",), "arms": {"continue": 0.001, "rate × 10": None, "momentum": 0.2},
      "sharpness": 0.01}),  # the rate is far below what it could be
    (C.GRADIENT_NOISE_FLOOR, {"arms": {"batch × 16": 0.2, "rate ÷ 10": 0.04}},
     {"arms": {"batch × 16": 0.06, "rate ÷ 10": 0.04}}),
    (C.STRICT_SADDLE, SADDLE, SADDLE | {"kind": Kind.NOT_CRITICAL}),
    (C.STRICT_SADDLE, {"kind": Kind.MAXIMUM}, {"kind": Kind.DEGENERATE}),
    (C.STRICT_SADDLE, {"curvature_decrease": 0.3}, {"curvature_decrease": 0.1}),
    (C.STRICT_SADDLE, {"curvature_decrease": 0.3}, {"curvature_decrease": 0.3, "slope_decrease": 0.2}),
    (C.DEGENERATE_POINT, {"kind": Kind.DEGENERATE, "escape_direction": torch.ones(4)},
     {"kind": Kind.DEGENERATE}),
    (C.DEGENERATE_POINT, {"kind": Kind.SADDLE, "curvature_decrease": 1e-8}, SADDLE),
    (C.LOCAL_MINIMUM, {"kind": Kind.MINIMUM, "restarts": 0.1}, {"kind": Kind.MINIMUM, "restarts": 0.49}),
    (C.MODEL_FLOOR, {"kind": Kind.MINIMUM, "restarts": 0.49}, {"kind": Kind.MINIMUM, "restarts": 0.1}),
    (C.MODEL_FLOOR, {"kind": Kind.DEGENERATE, "restarts": 0.49}, {"kind": Kind.DEGENERATE}),
    (C.MODEL_FLOOR, {"arms": FEW}, {"arms": FEW | {"momentum": 0.03}}),
    (C.MODEL_FLOOR, {"arms": FEW}, {"arms": FEW, "slope_decrease": 0.1}),
    (C.MODEL_FLOOR, {"arms": FEW}, {"arms": FEW, "updates": 50, "finite": 50}),  # too early to tell
]  # fmt: skip
IDS = [f"{number}-{case[0]}" for number, case in enumerate(CASES)]


def test_the_neutral_evidence_supports_nothing_and_undecided_says_so_alone():
    told = support(evidence())

    assert causes(told) == [Cause.UNDECIDED]
    assert told[0].strength == 0
    assert "no rule fits" in told[0].reasons[0]


def test_undecided_says_what_was_missing():
    assert (
        "no history of losses" in support(evidence(missing=("no history of losses",)))[0].reasons[0]
    )


@pytest.mark.parametrize(("cause", "fault", "near"), CASES, ids=IDS)
def test_a_rule_fires_on_its_fault_and_not_on_a_near_miss(cause, fault, near):
    told = support(evidence(**fault))

    assert told[0].cause == cause or cause == Cause.NON_FINITE
    assert cause in causes(told)
    assert cause not in causes(support(evidence(**near)))


@pytest.mark.parametrize(("cause", "fault", "near"), CASES, ids=IDS)
def test_every_reason_is_a_sentence_without_blanks(cause, fault, near):
    for told in (*support(evidence(**fault)), *support(evidence(**near))):
        assert 0 <= told.strength <= 1
        assert told.reasons
        assert all(reason.strip() and "None" not in reason for reason in told.reasons)


def test_every_cause_has_a_case_here():
    assert {case[0] for case in CASES} == set(Cause) - {Cause.UNDECIDED}


UNBLOWN = [case for case in CASES if not {"finite", "loss", "bound"} & case[1].keys()]


@pytest.mark.parametrize(("cause", "fault"), [c[:2] for c in UNBLOWN], ids=[c[0] for c in UNBLOWN])
def test_a_training_that_has_learned_its_task_is_healthy_whatever_else_is_seen(cause, fault):
    first = support(evidence(**fault, loss=0.04))[0].cause

    proofs = (Cause.ZERO_GRADIENT_PATH,)  # not one weight ever gets a gradient: nothing was learned
    assert first in (Cause.PROGRESSING, Cause.MODEL_FLOOR) or cause in proofs


@pytest.mark.parametrize(
    "fault",
    [
        unreachable(0.3),
        {"shrinkage": 5e-4},
        {"through_time": 1e-6, "loss": 0.9},
        {"input_size": 300.0},
        {"input_spread": 2 * SPREAD},
        {"input_offset": 2 * OFFSET},
        {"target_size": 100.0},
        {"sharpness": 1.5},
        {"arms": {"rate ÷ 10": 0.1}},
        {"settled": {"continue": 0.5, "rate ÷ 10": 0.4}},
        {"arms": {"continue": 0.01, "rate × 10": 0.3}},
        {"arms": decades(1e-5)},
        {"coupled": 0.1, "loss": 0.9},
        {**ALL, "arms": SLOW},
        {"arms": {"batch × 16": 0.2, "rate ÷ 10": 0.04}},
        SADDLE,
        {"kind": Kind.SADDLE, "curvature_decrease": 1e-8},
        {"layer": {"dead": 0.6}},
        {"layer": {"saturated": 0.7}},
        {"output_saturated": 0.95},
    ],
    ids=str,
)
def test_a_training_that_goes_on_well_is_healthy_in_spite_of_it(fault):
    told = support(evidence(**fault, trend=-0.2, trend_error=0.001))

    assert told[0].cause == Cause.PROGRESSING


@pytest.mark.parametrize(
    ("root", "symptoms", "shown"),
    [
        (Cause.DEAD_UNITS, (Cause.MODEL_FLOOR,), {"layer": {"dead": 1.0}, "arms": FEW}),
        (
            Cause.DEAD_UNITS,
            (Cause.STRICT_SADDLE,),
            {"layer": {"dead": 1.0}, **SADDLE},
        ),
        (
            Cause.UNSCALED_INPUTS,
            (Cause.STRICT_SADDLE, Cause.LEARNING_RATE_TOO_SMALL),
            {
                "input_size": 300.0,
                **SADDLE,
                "arms": {"continue": 0.01, "rate × 10": 0.3},
            },
        ),
        (
            Cause.SCHEDULE_EXHAUSTED,
            (Cause.LEARNING_RATE_TOO_SMALL,),
            {"rate": 1e-3, "arms": {"continue": 0.01, "rate × 10": 0.3, "highest rate": 0.3}},
        ),
        (Cause.LEARNING_RATE_TOO_LARGE, (Cause.NON_FINITE,), {"finite": 300, "highest": 1e6}),
        (
            Cause.STRICT_SADDLE,
            (Cause.LEARNING_RATE_TOO_SMALL,),
            {**SADDLE, "arms": {"continue": 0.01, "rate × 10": 0.3}},
        ),
        (
            Cause.SATURATED_UNITS,
            (Cause.DEAD_UNITS, Cause.VANISHING_GRADIENT),
            {"layer": {"dead": 0.6, "saturated": 0.9}, "shrinkage": 2e-3},
        ),
        (  # so flat that no unit has any gradient left
            Cause.SATURATED_UNITS,
            (Cause.DEAD_UNITS,),
            {"layer": {"dead": 1.0, "saturated": 0.9}},
        ),
        (
            Cause.LOSS_OUTPUT_MISMATCH,
            (Cause.SATURATED_UNITS,),
            {**unreachable(0.3), "output_saturated": 0.95},
        ),
        (
            Cause.DEGENERATE_POINT,
            (Cause.STRICT_SADDLE,),
            {"kind": Kind.SADDLE, "curvature_decrease": 1e-8},
        ),
    ],
)
def test_the_root_comes_before_its_symptoms(root, symptoms, shown):
    ranked = causes(support(evidence(**shown)))

    assert ranked[0] == root
    assert set(symptoms) <= set(ranked)


def test_a_doubtful_root_does_not_come_before_a_certain_symptom():
    inputs = support(evidence(input_size=30.0, **SADDLE))  # strengths 0.6 and 0.95

    assert causes(inputs)[0] == Cause.STRICT_SADDLE


def test_no_two_causes_explain_each_other():
    for root, other in product(EXPLAINS, EXPLAINS):
        assert not (other in EXPLAINS[root] and root in EXPLAINS[other]), (root, other)


@pytest.mark.parametrize(
    "pair",
    [
        {"kind": Kind.DEGENERATE, "escape_direction": torch.ones(4), "curvature_decrease": 0.3},
        {"layer": {"saturated": 0.9}, "shrinkage": 5e-4},
    ],
    ids=str,
)
def test_no_doubtful_third_cause_comes_before_two_that_are_akin(pair):
    told = support(evidence(**pair, last=2.0))  # the loss rose: half a reason for a smaller rate

    assert told[0].cause != Cause.LEARNING_RATE_TOO_LARGE


def test_a_rate_that_helps_far_more_than_larger_batches_is_no_longer_certainly_noise():
    arms = {"batch × 16": 0.2, "rate ÷ 10": 0.04}
    both = {"continue": 0.5, "batch × 16": 0.4, "rate ÷ 10": 0.35}
    alone = both | {"rate ÷ 10": 0.3}

    def noise(**changed):
        told = support(evidence(arms=arms, **changed))
        return next(one.strength for one in told if one.cause == Cause.GRADIENT_NOISE_FLOOR)

    assert noise(settled=both) > 0.9
    assert noise(settled=alone) < 0.5  # so that it does not come before the rate
    assert noise(settled=alone, batch_size=4) > 0.9  # of so few, larger batches are the remedy


def test_what_a_lower_rate_helps_far_more_than_larger_batches_is_the_rates():
    arms = {"batch × 16": 0.2, "rate ÷ 10": 0.04}
    settled = {"continue": 0.5, "batch × 16": 0.4, "rate ÷ 10": 0.3}

    assert causes(support(evidence(arms=arms, settled=settled)))[0] == Cause.LEARNING_RATE_TOO_LARGE


def test_a_loss_below_its_own_bound_is_not_held_against_bounded_outputs():
    """Numbers that are no logarithms of shares bring the negative log-likelihood below zero without end."""
    log_shares = {"reach": Reach(-INF, 0.0, False, 0.0015, -44.7)}

    assert Cause.LOSS_OUTPUT_MISMATCH not in causes(support(evidence(**log_shares)))


@pytest.mark.parametrize(("share", "strength"), [(0.4, 0.6), (0.6, 0.97)])
def test_a_path_that_cuts_off_most_parameters_is_the_cause_for_certain(share, strength):
    shown = {**SILENT, "always_still": SILENT["still"], "still_share": share, "arms": FEW}
    told = {one.cause: one.strength for one in support(evidence(**shown))}

    assert told[Cause.ZERO_GRADIENT_PATH] == strength


def test_strengths_grow_with_what_is_cut_off():
    some, much = (support(evidence(**unreachable(floor)))[0] for floor in (0.15, 0.3))

    assert some.strength < much.strength
    assert "sum to one" in much.reasons[0]
    assert "cannot fall below 0.3" in much.reasons[0]


@pytest.mark.parametrize(
    ("arm", "known"),
    [
        pytest.param("no clipping", {}),
        pytest.param("highest rate", {"rate": 1e-3}),
        ("momentum", {"without": ("batch × 16",)}),
        ("batch × 16", {}),
        ("rate ÷ 10", {}),
        ("no decay", {"coupled": 0.1}),
    ],
)
def test_a_change_with_which_a_copy_blew_up_as_well_is_no_remedy(arm, known):
    arms = dict.fromkeys(("continue", "rate ÷ 10", "rate × 10", "rate × 100", arm))
    told = support(evidence(arms=dict.fromkeys(GAINS) | arms, **known))

    assert not {
        Cause.GRADIENT_CLIPPING,
        Cause.SCHEDULE_EXHAUSTED,
        Cause.ILL_CONDITIONED_VALLEY,
        Cause.GRADIENT_NOISE_FLOOR,
        Cause.LEARNING_RATE_TOO_LARGE,
        Cause.OVER_REGULARIZED,
    } & set(causes(told))


@pytest.mark.parametrize(
    "odd",
    [
        {"course": None, "signals": None, "steps": None, "without": tuple(GAINS)},
        {"level": NAN, "loss": NAN},
        {"level": 0.0, "loss": 0.0},
        {"level": INF, "loss": INF},
        {"arms": dict.fromkeys(GAINS)},
        {"signals": replace(SIGNALS, layers=())},
        {"first": NAN, "last": NAN, "lowest": NAN, "highest": NAN, "finite": 0, "trend_error": INF},
        {"first": -3.0, "last": -2.0, "lowest": -3.0, "loss": -2.0, "level": -1.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", list(Kind))
def test_evidence_with_holes_gets_an_answer(odd, kind):
    told = support(evidence(kind=kind, **odd))

    assert told
    assert len(set(causes(told))) == len(told)
    assert len(told) <= len(RULES)
