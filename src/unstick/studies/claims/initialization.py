"""Where a training starts: equal weights, small ones, or weights of the right variance."""

from collections.abc import Sequence
from math import exp, inf, isfinite, log, nan, prod

from torch import Tensor, nn

from unstick.data import Dataset
from unstick.record import number
from unstick.studies.frame import (
    Arm,
    Decision,
    Picture,
    Series,
    Setting,
    Side,
    Study,
    Table,
    Task,
    Verdict,
    combined,
    paired,
    verdict_near,
    verdict_of,
    within,
)
from unstick.studies.frame.sketching import sketch
from unstick.studies.frame.table import Value
from unstick.studies.measures.classes import classified
from unstick.studies.measures.curves import binned, over_seeds
from unstick.training import (
    Recipe,
    Trained,
    evaluate,
    initialize,
    load_pretrained,
    signal_by_layer,
    train,
)
from unstick.training.networks import ACTIVATIONS
from unstick.training.stopping import DIVERGED

__all__ = ["STUDY"]

NETS = {"tanh": "64-64", "relu": "-".join(["64"] * 8)}
SCHEMES = {
    "zero": "zero",
    "one": "one",
    "small": "normal",
    "Xavier": "xavier",
    "He": "he",
    "pretrained": "he",
}
EQUAL, BAD = ("zero", "one"), ("zero", "one", "small")
MATCHING = {"tanh": "Xavier", "relu": "He"}
UPDATES = (400, 1500)
RATE, BATCH, SAMPLES = 0.1, 32, 4000
DRAWS = 16  # starts whose variance is averaged
LEAST = 1e-12  # of a loss in logarithms
ROUNDING = (
    1e-12  # of the largest weight: sums of huge activations round, and not alike for all units
)
OFF = 0.2  # of the predicted ratio
WORST = 10.0  # losses and variances that are drawn: from weights of one they are astronomical
BINS = 40


def _arms(setting: Setting) -> Sequence[Arm]:
    own = setting.model is not None and ".py:" in setting.model
    nets = ("relu",) if own else tuple(NETS)
    schemes = [name for name in SCHEMES if setting.full or name != "pretrained"]
    return [Arm(f"{name}, {net}", {"start": name, "net": net}) for net in nets for name in schemes]


def _measure(task: Task) -> dict[str, Value]:
    data = classified(task, "digits", SAMPLES)
    updates = UPDATES[task.full]
    model = _model(task, data, task.seed)
    ratio, predicted, variances = _signal(task, data)
    if task.arm["start"] == "pretrained":
        half = data.train_targets < (data.classes + 1) // 2
        first = _model(task, data, task.seed)
        _train(first, (data.train_inputs[half], data.train_targets[half]), updates, task.seed + 1)
        load_pretrained(model, first.state_dict())
    told = _train(model, (data.train_inputs, data.train_targets), updates, task.seed)
    loss = nn.functional.cross_entropy
    seen = evaluate(model, data, loss)
    diverged = told.outcome == DIVERGED or not isfinite(seen.loss)
    spread, largest = _spread(model)
    test = evaluate(model, (data.test_inputs, data.test_targets), loss)
    return {
        "loss": inf if diverged else seen.loss,
        "log_loss": log(max(log(data.classes) if diverged else seen.loss, LEAST)),
        "accuracy": seen.accuracy,
        "test_accuracy": test.accuracy,
        "outcome": told.outcome,
        "spread": spread,
        "largest": largest,
        "ratio": ratio,
        "predicted": predicted,
        "variances": variances,
        "curve": binned(told.trace.loss, BINS),
        "updates": updates,
    }


def _train(model: nn.Module, samples: tuple[Tensor, Tensor], updates: int, seed: int) -> Trained:
    batch = min(BATCH, len(samples[0]))
    recipe = Recipe(lr=RATE, batch_size=batch, updates=updates, seed=seed)
    return train(model, samples, nn.functional.cross_entropy, recipe)


def _model(task: Task, data: Dataset, seed: int) -> nn.Module:
    net = task.arm["net"]
    model = task.network(NETS[net], data, activation=net).double()
    initialize(model, SCHEMES[task.arm["start"]], seed=seed)
    return model


def _signal(task: Task, data: Dataset) -> tuple[float, float, tuple[float, ...]]:
    """The factor by which a hidden layer multiplies the variance, the one that is predicted, and the variances."""
    kind = type(ACTIVATIONS[task.arm["net"]]()).__name__
    factors = list[float]()
    variances: tuple[float, ...] = ()
    model = _model(task, data, task.seed)
    for draw in range(DRAWS):
        found = signal_by_layer(
            _model(task, data, 1000 * draw + task.seed), data.train_inputs[:512]
        )
        after = tuple(layer.variance for layer in found.layers if layer.kind == kind)
        variances = variances or after
        if len(after) > 1 and after[0] > 0 and after[-1] > 0 and isfinite(after[-1]):
            factors.append(log(after[-1] / after[0]) / (len(after) - 1))
    ratio = exp(sum(factors) / len(factors)) if factors else nan
    return ratio, _predicted(task, model), variances


def _predicted(task: Task, model: nn.Module) -> float:
    """n_in·Var(w)/2 of a hidden ReLU layer, which keeps half of what comes in (He et al., 2015)."""
    hidden = [m for m in model.modules() if isinstance(m, nn.Linear)][1:-1]
    if ".py:" in (task.setting.model or "") or task.arm["net"] != "relu":
        return nan
    if task.arm["start"] not in ("Xavier", "He") or not hidden:
        return nan
    if task.arm["start"] == "He":
        return 1.0
    shares = [m.in_features / (m.in_features + m.out_features) for m in hidden]
    return prod(shares) ** (1 / len(shares))


def _spread(model: nn.Module) -> tuple[float, float]:
    """The largest difference between the same weight of two units of a hidden layer, and the largest weight."""
    weights: list[Tensor] = [p.detach() for p in model.parameters() if p.ndim > 1][:-1]
    spread = max((float((w.amax(0) - w.amin(0)).max()) for w in weights), default=nan)
    return spread, max((float(w.abs().max()) for w in weights), default=nan)


def _decide(table: Table) -> Decision:
    nets = [net for net in NETS if any(knobs["net"] == net for knobs in table.knobs.values())]
    count = len(BAD) * len(nets) + 2
    gaps = [
        paired(
            table,
            "log_loss",
            f"{MATCHING[net]}, {net}",
            f"{bad}, {net}",
            name=f"ln of the loss with {net}: {MATCHING[net]} − {bad}",
            comparisons=count,
        )
        for net in nets
        for bad in BAD
    ]
    ratios = [
        within(
            table,
            f"{name}, relu",
            "ratio",
            "predicted",
            name=f"variance ratio of a ReLU layer, {name}: measured − predicted",
            comparisons=count,
        )
        for name in ("He", "Xavier")
        if not _unpredicted(table, f"{name}, relu")
    ]
    equal, same = _equal(table)
    verdicts = [verdict_of(gap, Side.BELOW) for gap in gaps]
    verdicts += [verdict_near(effect, OFF * effect.second) for effect in ratios] + [same]
    told = ", ".join(
        f"{arm} {number(table.mean('accuracy', arm), 3)}"
        for arm in table.arms
        if table.column("accuracy", arm)
    )
    he, xavier = (number(table.mean("ratio", f"{name}, relu"), 3) for name in ("He", "Xavier"))
    said = f"{equal} Training accuracy: {told}. A ReLU layer multiplies the variance by {he} (He) and {xavier} (Xavier)."
    return Decision(combined(verdicts), said, tuple(gaps + ratios))


def _equal(table: Table) -> tuple[str, Verdict]:
    """Whether units that started equal are still so; runs that ended in inf have no answer."""
    pairs = [
        (spread, largest)
        for arm in table.arms
        if table.knobs[arm]["start"] in EQUAL
        for spread, largest in zip(
            table.column("spread", arm), table.column("largest", arm), strict=True
        )
        if isfinite(spread) and isfinite(largest)
    ]
    exact = sum(spread == 0 for spread, _ in pairs)
    alike = sum(spread <= ROUNDING * largest for spread, largest in pairs)
    said = f"In {alike} of {len(pairs)} runs from equal weights all units of a layer stayed equal, in {exact} of them bit for bit."
    if not pairs:
        return said, Verdict.INCONCLUSIVE
    return said, Verdict.SUPPORTED if alike == len(pairs) else Verdict.CONTRADICTED


def _unpredicted(table: Table, arm: str) -> bool:
    """Whether the arm was measured on a network for which no ratio is predicted: a user's own, or one hidden layer."""
    known = table.column("predicted", arm)
    return bool(known) and not any(map(isfinite, known))


def _pictures(table: Table) -> list[Picture]:
    pictures = [_accuracies(table)]
    for net in NETS:
        arms = [arm for arm in table.arms if table.knobs[arm]["net"] == net]
        curves = {arm: table.curves("curve", arm) for arm in arms}
        pictures.append(
            Picture(
                name=f"training-{net}",
                title=f"Training from different starts, {net}",
                caption="The loss of the batches, means of as many pieces of the training; lines are means over seeds, bands "
                "the lowest and highest.",
                x="part of the training",
                y="training loss",
                series=tuple(
                    over_seeds(arm, [(k + 0.5) / BINS for k in range(BINS)], curves[arm])
                    for arm in arms
                    if curves[arm]
                ),
                log_y=True,
                top=WORST,
            )
        )
    return [*(p for p in pictures if p.series), *_variances(table)]


def _accuracies(table: Table) -> Picture:
    series: list[Series] = []
    claimed: list[Series] = []
    for net in NETS:
        arms = [arm for arm in table.arms if arm.endswith(net) and table.column("accuracy", arm)]
        if arms:
            names = tuple(arm.rpartition(", ")[0] for arm in arms)
            low, high = table.spread("accuracy", arms)
            means = tuple(table.mean("accuracy", arm) for arm in arms)
            series.append(Series(net, names, means, tuple(low), tuple(high), "bars"))
            told = (*EQUAL, "small", MATCHING[net])
            levels = dict(zip(told, (0.1, 0.1, 0.3, 1.0), strict=True))
            known = tuple(name for name in names if name in levels)
            claimed.append(Series(net, known, tuple(levels[name] for name in known), kind="bars"))
    return Picture(
        name="accuracy",
        title="Where it starts decides where it gets to",
        caption="Training accuracy after equally many updates, with two tanh layers and with eight ReLU layers: means over seeds, the "
        "lowest and the highest.",
        x="start",
        y="training accuracy",
        series=tuple(series),
        claimed=tuple(claimed),
    )


def _variances(table: Table) -> list[Picture]:
    arms = [arm for arm in table.arms if table.knobs[arm]["net"] == "relu"]
    curves = {arm: table.curves("variances", arm) for arm in arms}
    depth = max((len(curve) for found in curves.values() for curve in found), default=0)
    if depth < 2:
        return []
    x = [float(k) for k in range(1, depth + 1)]
    lines = tuple(over_seeds(arm, x, curves[arm]) for arm in arms if any(curves[arm]))
    shown = [line for line in lines if max(line.y) <= WORST]
    return [
        Picture(
            name="variance",
            title="The signal through ReLU layers at the start",
            caption="The variance of what each activation puts out before any update.",
            x="layer",
            y="variance",
            series=lines,
            claimed=(
                *sketch(
                    "small: fades", shown, [(0, 0.95), (1, 0)], group="small, relu", log_y=True
                ),
                Series(
                    "Xavier: halves",
                    tuple(x),
                    tuple(0.5**k for k in range(depth)),
                    group="Xavier, relu",
                ),
                Series("He: stays", tuple(x), (1.0,) * depth, group="He, relu"),
            ),
            log_y=True,
            top=WORST,
        )
    ]


STUDY = Study(
    name="initialization",
    claim="From equal weights the units of a layer stay equal for ever, from small ones the signal fades; weights of the "
    "variance that suits the activation (Xavier, He) keep the signal and train",
    source="lecture notes on initialization; Glorot, Bengio (2010); He, Zhang, Ren, Sun (2015)",
    question="Where does the same training end from six starts, with two tanh layers and with eight ReLU layers?",
    measured="On digits, layers of 64: the training loss after equally many updates of SGD at one rate, where what diverged "
    "counts as a uniform guess; the largest difference between the weights of two units of a hidden layer; the factor by which a ReLU layer multiplies the variance, over sixteen starts a seed",
    rule="Supported if units that started equal end equal in every finite run (to 1e-12 of the largest weight), the whole interval "
    "of ln of the loss of Xavier (tanh) and He (ReLU) less that of zero, one and small lies below 0 for each (corrected for all "
    "comparisons), and the variance ratios of He and Xavier lie within 20 % of n·Var(w)/2; contradicted if one interval lies on "
    "the other side, or units of a finite run differ; else inconclusive",
    criticism="With normalization or residual paths the start matters much less (Ioffe and Szegedy, 2015; Zhang et al., 2019, for "
    "residual paths), small weights only delay a shallow network, and Xavier's ratio ½ stops a ReLU network of eight layers "
    "as little as of one.",
    arms=_arms,
    measure=_measure,
    decide=_decide,
    pictures=_pictures,
    seeds=(4, 8),
    takes=("data", "model"),
)
