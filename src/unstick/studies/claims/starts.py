"""Where many starts of one network end, against its width."""

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite, nan

from torch import Tensor, nn

from unstick.record import number
from unstick.studies.frame import (
    Arm,
    Decision,
    Picture,
    Row,
    Series,
    Setting,
    Side,
    Study,
    Table,
    Task,
    paired,
    share,
    verdict_of,
)
from unstick.studies.frame.sketching import sketch
from unstick.studies.frame.table import Value
from unstick.studies.measures.sample import loss_for, part
from unstick.training.loop import Trained, train
from unstick.training.population import train_population
from unstick.training.recipe import Recipe

__all__ = ["STUDY"]

WIDTHS = (2, 4, 8, 16, 32)
MORE = (64, 128)
SAMPLES = 300
UPDATES = (1000, 3000)  # quick and full
RATE = 0.01  # of Adam on all samples, annealed to 0
NEAR = 0.02  # of the first loss: within that of the best of a width, a start counts as having reached it


def _arms(setting: Setting) -> Sequence[Arm]:
    widths = WIDTHS + (MORE if setting.full else ())
    return [Arm(f"width {width}", {"width": width}) for width in widths]


def _prepared(task: Task) -> tuple[nn.Module, tuple[Tensor, Tensor], Recipe]:
    """The same samples for every start: what differs is the network's seed."""
    shared = Task(task.arm, task.setting.seed, task.setting)
    data = part(task.data("digits"), SAMPLES, shared.generator("samples"))
    model = task.network(str(task.arm["width"]), data, activation="tanh")
    recipe = Recipe(
        optimizer="adam",
        lr=RATE,
        batch_size=None,
        updates=UPDATES[task.full],
        schedule="cosine",
        seed=task.seed,
    )
    return model, (data.train_inputs, data.train_targets), recipe


def _measure(task: Task) -> dict[str, Value]:
    model, samples, recipe = _prepared(task)
    return _told(train(model, samples, loss_for(task.data("digits")), recipe))


def _together(tasks: Sequence[Task]) -> Iterable[tuple[Task, Mapping[str, Value]]]:
    """All starts of a width as one population."""
    for arm in dict.fromkeys(task.arm.name for task in tasks):
        group = [task for task in tasks if task.arm.name == arm]
        prepared = [_prepared(task) for task in group]
        told = train_population(
            [model for model, _, _ in prepared],
            prepared[0][1],
            loss_for(group[0].data("digits")),
            [recipe for _, _, recipe in prepared],
        )
        for task, member in zip(group, told.members, strict=True):
            yield task, _told(member)


def _told(told: Trained) -> dict[str, Value]:
    losses = told.trace.loss
    kept = range(0, len(losses), max(1, len(losses) // 100))
    return {
        "loss": losses[-1] if told.outcome != "diverged" else nan,
        "first": losses[0],
        "outcome": told.outcome,
        "updates": tuple(float(k) for k in kept),
        "losses": tuple(losses[k] for k in kept),
    }


def _reached(table: Table) -> Table:
    """Of every start, whether it came close to the best of its width."""
    rows: list[Row] = []
    for arm in table.arms:
        losses, first = table.by_seed("loss", arm), table.mean("first", arm)
        best = min((loss for loss in losses.values() if isfinite(loss)), default=nan)
        rows += [
            Row(arm, seed, {"missed": float(not loss <= best + NEAR * first)}, 0.0)
            for seed, loss in losses.items()
        ]
    return Table(tuple(rows), table.arms, table.knobs)


def _decide(table: Table) -> Decision:
    reached = _reached(table)
    narrow, wide = table.arms[0], table.arms[-1]
    effect = paired(
        reached, "missed", wide, narrow, name=f"starts that end worse, {wide} − {narrow}"
    )
    told = "; ".join(
        f"{arm}: {number(min(losses), 3)} to {number(max(losses), 3)}, {sum(reached.column('missed', arm)):.0f} of {len(losses)} worse"
        for arm in table.arms
        if (losses := [x for x in table.column("loss", arm) if isfinite(x)])
    )
    said = f"Final losses (lowest to highest), and starts that end above the best of their width: {told}."
    return Decision(verdict_of(effect, Side.BELOW), said, (effect,))


def _pictures(table: Table) -> list[Picture]:
    reached = _reached(table)
    known = [arm for arm in table.arms if table.column("loss", arm)]
    width = tuple(float(arm.removeprefix("width ")) for arm in known)
    cloud = [
        (x, loss) for x, arm in zip(width, known, strict=True) for loss in table.column("loss", arm)
    ]
    best = tuple(min(table.column("loss", arm), default=nan) for arm in known)
    starts = (
        Series("starts", tuple(x for x, _ in cloud), tuple(y for _, y in cloud), kind="points"),
        Series("best", width, best),
    )
    scattered = [
        (x, 0.5 * (1 - x) + 0.5 * (1 - x) ** 2 * k / 6)
        for x in (0.0, 0.25, 0.5, 0.75, 1.0)
        for k in range(7)
    ]
    columns = [[int(one) for one in reached.column("missed", arm)] for arm in known]
    shares = [share(sum(one), len(one), name="missed", unit="starts") for one in columns]
    missed = (
        Series(
            "measured",
            width,
            tuple(one.difference for one in shares),
            tuple(one.low for one in shares),
            tuple(one.high for one in shares),
        ),
    )
    return [
        Picture(
            name="losses",
            title="Where the starts end",
            caption="The training loss at the end of every start, against the width of the hidden layer; all samples in every update.",
            x="width of the hidden layer",
            y="final training loss",
            series=starts,
            claimed=(
                *sketch("starts", starts, scattered, kind="points", log_x=True, log_y=True),
                *sketch("best", starts, [(0, 0.5), (1, 0)], log_x=True, log_y=True),
            ),
            log_x=True,
            log_y=True,
        ),
        Picture(
            name="missed",
            title="Starts that end above the best",
            caption=f"The share of starts that end more than {NEAR:.0%} of the first loss above the best start of the same width, with exact "
            "intervals of 95 %.",
            x="width of the hidden layer",
            y="share of starts",
            series=missed,
            claimed=sketch(
                "rarer in wide nets",
                missed,
                [(0, 1), (0.25, 0.45), (0.6, 0.1), (1, 0)],
                group="measured",
                log_x=True,
            ),
            log_x=True,
        ),
    ]


STUDY = Study(
    name="starts",
    claim="The more parameters a network has, the rarer are bad local minima: in a wide one almost every start ends as low as the best",
    source="lecture notes on local minima and saddle points; Choromanska et al. (2015)",
    question="How much do the final training losses of many starts differ, against the width?",
    measured=f"The training loss of networks with one hidden layer after Adam with an annealed rate on {SAMPLES} samples of "
    "digits, from starts that differ in the seed of the weights alone",
    rule=f"A start misses when it ends more than {NEAR:.0%} of the first loss above the best start of its width. The share that misses, "
    "widest − narrowest, paired by seed: supported if the whole interval lies below 0, contradicted if above 0, else inconclusive",
    criticism="A loss at the end of a budget is no minimum: a slow start looks like a bad one. That wide networks fit everything says that the "
    "minima found are good, not that others do not exist; for almost all data there are bad ones (Ding, Li and Sun, 2019). The best "
    "of so many starts need not be the best there is.",
    arms=_arms,
    measure=_measure,
    decide=_decide,
    pictures=_pictures,
    seeds=(10, 32),
    takes=("data",),
    together=_together,
)
