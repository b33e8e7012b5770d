"""What is tried fits the cause and the run; what cannot help is left out, with its reason."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import nn

from cases import network
from unstick.diagnosis.bench import Bench
from unstick.diagnosis.cause import HEALTHY, Cause
from unstick.diagnosis.choosing import FOR, MOST, Choice, choose, remedy_of
from unstick.diagnosis.copies import Copy
from unstick.diagnosis.evidence import gather
from unstick.diagnosis.remedies import GROUPS, Remedy
from unstick.diagnosis.rules import Support
from unstick.diagnosis.run import Run
from unstick.diagnosis.surgery import NotPossible
from unstick.errors import UnstickError
from unstick.problem.problem import Problem
from unstick.studies.gallery import all_stalls

STALLS = {stall.name: stall for stall in all_stalls()}
TEN = (
    "two-scalars", "five-scalars-at-zero", "exclusive-or", "false-frequency", "line-for-circles",
    "stiff-regression", "softmax-regression", "dead-output", "frozen-zero-head", "clipped-to-nothing",
)  # fmt: skip
NAMES = tuple(dict.fromkeys(name for names in FOR.values() for name in names))
BUDGET = 120


def of(*causes, strength=1.0):
    return [Support(cause, strength, ()) for cause in causes]


@cache
def stalled(name):
    run = STALLS[name].start(0)
    evidence, problem = gather(run, budget=BUDGET, seed=0, trials=False)
    return Bench(run, problem), evidence


def run_of(make, model=None, loss=None, **known):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(24, 3, generator=draw)
    model = network(3, 4, 2) if model is None else model
    problem = Problem(model, (x, torch.randint(2, (24,), generator=draw)), loss or nn.CrossEntropyLoss())  # fmt: skip
    run = Run(problem, make(model), **({"batch_size": 8} | known))
    evidence, whole = gather(run, budget=BUDGET, seed=0, trials=False)
    return Bench(run, whole), evidence


@cache
def plain(batch_size=8):
    return run_of(lambda m: torch.optim.SGD(m.parameters(), 0.1), batch_size=batch_size)


@cache
def adaptive(kind="Adam"):
    return run_of(lambda m: getattr(torch.optim, kind)(m.parameters(), lr=0.01))


@cache
def rectified():
    model = network(3, 6, 2, activation=nn.ReLU)
    return run_of(lambda m: torch.optim.SGD(m.parameters(), 0.1), model, batch_size=6)


def names_of(choice):
    return [remedy.name for remedy in choice.remedies]


def offers(bench, evidence, cause):
    return names_of(choose(bench, evidence, of(cause), None))


@pytest.mark.parametrize("cause", Cause)
def test_every_cause_has_remedies_or_is_healthy(cause):
    assert (cause in FOR) != (cause in HEALTHY)


@pytest.mark.parametrize("cause", HEALTHY)
def test_a_healthy_run_is_offered_nothing_and_told_why(cause):
    choice = choose(*plain(), of(cause), None)

    assert choice.remedies == ()
    assert [what for what, _ in choice.skipped] == ["every remedy"]


def test_progress_beside_a_sure_cause_is_offered_that_causes_remedies_and_beside_a_weak_one_none():
    causes = of(Cause.PROGRESSING) + of(Cause.LEARNING_RATE_TOO_SMALL, strength=0.95)
    weak = of(Cause.PROGRESSING) + of(Cause.LEARNING_RATE_TOO_SMALL, strength=0.85)

    assert "rate × 10" in names_of(choose(*plain(), causes, None))
    assert names_of(choose(*plain(), weak, None)) == []


def test_a_floor_that_restarts_did_not_confirm_is_put_to_the_test():
    assert names_of(choose(*plain(), of(Cause.MODEL_FLOOR, strength=0.6), None))
    assert not names_of(choose(*plain(), of(Cause.MODEL_FLOOR, strength=0.7), None))


@pytest.mark.parametrize("name", ["softmax-regression", "frozen-zero-head"])
def test_a_path_without_gradient_is_offered_no_optimizer_rate_batch_or_start(name):
    bench, evidence = stalled(name)
    others = of(Cause.LEARNING_RATE_TOO_SMALL, Cause.GRADIENT_NOISE_FLOOR)
    choice = choose(bench, evidence, of(Cause.ZERO_GRADIENT_PATH) + others, None)

    assert choice.remedies
    assert all("model" in remedy.groups for remedy in choice.remedies)
    assert not any("step" in remedy.groups for remedy in choice.remedies)
    assert "every optimizer, rate, batch and start" in dict(choice.skipped)


@pytest.mark.parametrize("cause", [c for c in FOR if c != Cause.ZERO_GRADIENT_PATH])
def test_where_the_gradient_is_exactly_zero_no_step_and_no_batch_is_offered(cause):
    bench, evidence = stalled("two-scalars")
    still = replace(evidence, point=replace(evidence.point, gradient_norm=0.0))
    choice = choose(bench, still, of(cause), None)

    assert all(set(remedy.groups) - {"step", "batch"} for remedy in choice.remedies)
    assert "exactly zero" in dict(choice.skipped)["every optimizer, rate and batch"]


def test_a_gradient_that_is_almost_zero_is_not_taken_for_none():
    bench, evidence = stalled("two-scalars")
    nearly = replace(evidence, point=replace(evidence.point, gradient_norm=1e-300))

    assert "rate × 10" in offers(bench, nearly, Cause.LEARNING_RATE_TOO_SMALL)


@pytest.mark.parametrize("kind", ["Adam", "AdamW", "RMSprop"])
def test_nothing_adaptive_is_offered_an_adam(kind):
    bench, evidence = adaptive(kind)
    for cause in FOR:
        choice = choose(bench, evidence, of(cause), None)
        assert not [name for name in names_of(choice) if "Adam" in name]
        refused = [why for name, why in choice.skipped if name.startswith("Adam")]
        assert all("adaptive already" in why for why in refused)


def test_plain_steps_are_offered_an_adam():
    assert "Adam 0.01" in offers(*plain(), Cause.LEARNING_RATE_TOO_SMALL)


@pytest.mark.parametrize("which", [
    ("momentum 0.9", lambda: run_of(lambda m: torch.optim.SGD(m.parameters(), 0.1, momentum=0.9)), "as much momentum"),
    ("no clipping", plain, "not clipped"),
    ("no decay", plain, "do not decay"),
    ("highest rate", plain, "as high as it ever was"),
    ("warm-up", plain, "as high as it ever was"),
    ("escape", plain, "no way out"),
    ("unfrozen", plain, "no parameter is frozen"),
    ("rate of curvature", adaptive, "plain steps only"),
    ("momentum 0.9", adaptive, "has no momentum"),
], ids=lambda which: which[0])  # fmt: skip
def test_what_a_run_has_already_or_cannot_have_is_refused_with_the_reason(which):
    name, make, why = which
    with pytest.raises(NotPossible, match=why):
        remedy_of(*make(), None, name)


def test_what_a_run_lacks_is_made():
    def make(model):
        optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.5, weight_decay=0.1)
        optimizer.param_groups[0]["initial_lr"] = 1.0
        return optimizer

    bench, evidence = run_of(make, clip_norm=0.1)
    for name in ("momentum 0.9", "no clipping", "clip", "no decay", "highest rate", "warm-up"):
        copy = Copy(bench, 0)
        remedy_of(bench, evidence, None, name).change(copy)
        group = copy.optimizer.param_groups[0]
        now = (group["lr"], group["momentum"], group["weight_decay"], copy.clip_norm)
        norm = evidence.point.gradient_norm
        assert now == pytest.approx({
            "momentum 0.9": (0.01, 0.9, 0.1, 0.1),
            "no clipping": (0.01, 0.5, 0.1, None),
            "clip": (0.01, 0.5, 0.1, float(f"{norm:.1e}")),
            "no decay": (0.01, 0.5, 0.0, 0.1),
            "highest rate": (1.0, 0.5, 0.1, 0.1),
            "warm-up": (1.0, 0.5, 0.1, 0.1),
        }[name])  # fmt: skip


def test_no_more_are_offered_than_can_be_tried_and_the_rest_is_named():
    bench, evidence = run_of(lambda m: torch.optim.SGD(m.parameters(), 0.1, weight_decay=0.1), clip_norm=0.1)  # fmt: skip
    causes = of(Cause.UNDECIDED, Cause.DEAD_UNITS, Cause.VANISHING_GRADIENT)
    choice = choose(bench, evidence, causes, None)

    assert len(choice.remedies) == MOST
    assert len(set(names_of(choice))) == MOST
    rest = [name for name, why in choice.skipped if why == "others were likelier"]
    assert rest
    assert not set(rest) & set(names_of(choice))


def test_without_its_dearest_a_choice_names_that_one_and_keeps_the_others_in_order():
    def priced(name, price):
        return Remedy(name, name, "step", lambda _: None, "", price=price)

    choice = Choice((priced("a", 0.0), priced("b", 8.0), priced("c", 2.0), priced("d", 8.0)), (("e", "why"),))  # fmt: skip
    names, gone = [], []
    while choice.remedies:
        choice = choice.without_dearest()
        names.append("".join(names_of(choice)))
        gone.append(choice.skipped[-1][0])

    assert names == ["abc", "ac", "a", ""]
    assert choice.skipped[0] == ("e", "why")
    assert gone == ["d", "b", "c", "a"]  # the last of two as dear
    assert {why for _, why in choice.skipped[1:]} == {"the budget does not pay for it"}


@pytest.mark.parametrize(("loss", "power"), [
    (nn.MSELoss(), 2), (nn.functional.mse_loss, 2), (nn.L1Loss(), 1), (nn.HuberLoss(), 1),
])  # fmt: skip
@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_rates_of_plain_steps_alone_follow_the_unit_of_the_targets(kind, loss, power):
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(24, 3, generator=draw), 50 * torch.randn(24, 2, generator=draw)
    model = network(3, 4, 2)
    optimizer = getattr(torch.optim, kind)(model.parameters(), 0.1)
    bench = Bench(Run(Problem(model, (x, y), loss), optimizer, 8), Problem(model, (x, y), loss))
    copy = Copy(bench, 0)
    remedy_of(bench, plain()[1], None, "targets").change(copy)

    deviation = float(y.double().var(0, correction=0).mean().sqrt())
    expected = 0.1 / deviation**power if kind == "SGD" else 0.1
    assert copy.optimizer.param_groups[0]["lr"] == pytest.approx(expected)


@pytest.mark.parametrize(("function", "drawn"), [(True, "randn_like"), (False, "initialize")])
def test_a_start_is_by_no_scheme_only_where_there_is_no_weight_matrix(function, drawn):
    bench, evidence = plain()
    if function:
        problem = Problem.from_function(lambda x: (x * x).sum(), torch.ones(2).double())
        bench = Bench(Run(problem, torch.optim.SGD(problem.model.parameters(), 0.1)), problem)

    assert drawn in remedy_of(bench, evidence, None, "new start").code


def test_a_second_cause_adds_its_first_four_unless_it_is_weak_or_healthy():
    first, second = Cause.GRADIENT_CLIPPING, Cause.LEARNING_RATE_TOO_SMALL
    alone = offers(*plain(), first)

    both = names_of(choose(*plain(), of(first, second), None))
    weak = names_of(choose(*plain(), of(first) + of(second, strength=0.4), None))
    healthy = names_of(choose(*plain(), of(first, Cause.PROGRESSING), None))
    assert [name for name in both if name not in alone] == ["rate × 10", "rate × 100", "rate × 1,000", "rate 1/λmax"]  # fmt: skip
    assert weak == healthy == alone


@pytest.mark.parametrize("stall", TEN)
def test_every_name_is_made_or_refused_with_one_line(stall):
    bench, evidence = stalled(stall)
    made, refused = {}, []
    for name in NAMES:
        try:
            made[name] = remedy_of(bench, evidence, None, name)
        except NotPossible as why:
            refused.append(str(why))
    assert all(why and "\n" not in why for why in refused)
    assert {"rate × 10", "new start", "noise", "new start & rate ÷ 10"} <= made.keys()
    for name, remedy in made.items():
        assert sorted(remedy.key.split(" & ")) == sorted(name.split(" & "))
        assert list(remedy.groups) == sorted(remedy.groups, key=list(GROUPS).index)
        assert remedy.code
        assert remedy.about


@pytest.mark.parametrize("stall", TEN)
def test_what_is_made_changes_a_copy_or_is_refused_with_one_line(stall):
    bench, evidence = stalled(stall)
    before = [p.clone() for p in bench.problem.model.parameters()]
    changed, refused = 0, []
    for name in NAMES:
        copy = Copy(bench, 0)
        try:
            remedy_of(bench, evidence, None, name).change(copy)
        except (NotPossible, UnstickError) as why:
            refused.append(str(why))
            continue
        changed += 1
        names = {id(p) for p in copy.model.parameters()}
        held = [id(p) for group in copy.optimizer.param_groups for p in group["params"]]
        assert set(held) <= names, name
        assert len(held) == len(set(held)), name
    assert changed >= 15
    assert all("\n" not in why for why in refused)
    assert all(map(torch.equal, before, bench.problem.model.parameters()))


@pytest.mark.parametrize("key", ["rate × 10", "new start & rate ÷ 100", "normalize & start", "batch × 16 & rate ÷ 10", "leaky & start & rate × 3"])  # fmt: skip
def test_a_key_makes_the_same_remedy_again(key):
    bench, evidence = rectified()
    one = remedy_of(bench, evidence, None, key)
    other = remedy_of(bench, evidence, None, one.key)

    assert (one.name, one.code, one.about, one.groups, one.key) == (
        other.name, other.code, other.about, other.groups, other.key
    )  # fmt: skip
    assert sorted(one.key.split(" & ")) == sorted(key.split(" & "))
    copies = [Copy(bench, 1), Copy(bench, 1)]
    for copy, remedy in zip(copies, (one, other), strict=True):
        remedy.change(copy)
        copy.train(2)
    assert copies[0].losses == copies[1].losses


@pytest.mark.parametrize("pair", [
    ("noise", "rate × 10"),
    ("rate × 10", "noise"),
    ("new start & rate ÷ 10", "batch × 16"),
    ("batch × 16", "new start & rate ÷ 10"),
])  # fmt: skip
def test_the_key_of_two_that_were_joined_makes_them_again(pair):
    bench, evidence = plain(batch_size=1)
    one, other = (remedy_of(bench, evidence, None, name) for name in pair)
    both = one + other
    again = remedy_of(bench, evidence, None, both.key)

    assert (again.name, again.code, again.groups) == (both.name, both.code, both.groups)


@pytest.mark.parametrize("key", ["magic", "", "rate", "Adam", "noise & magic", "magic 3", "rate ÷ 0", "new start &"])  # fmt: skip
def test_an_unknown_key_is_refused_in_one_line(key):
    with pytest.raises((NotPossible, UnstickError)) as refusal:
        remedy_of(*plain(), None, key)

    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.functional.cross_entropy])
def test_scores_for_a_loss_that_takes_them_are_offered_without_softmax(loss):
    model = nn.Sequential(*network(3, 4, 2), nn.Softmax(-1))
    bench, evidence = run_of(lambda m: torch.optim.SGD(m.parameters(), 0.1), model, loss)

    assert offers(bench, evidence, Cause.LOSS_OUTPUT_MISMATCH)[0] == "plain outputs"
