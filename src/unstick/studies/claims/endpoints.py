"""Where training ends: every end classified, with full gradients and with mini-batches."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from unstick.critical.classifying import classify
from unstick.critical.point import Kind
from unstick.problem.problem import Problem
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
    combined,
    share,
    verdict_of,
)
from unstick.studies.frame.table import Value, tally
from unstick.studies.measures.sample import loss_for, part
from unstick.training.loop import train
from unstick.training.recipe import Recipe

__all__ = ["STUDY"]

SAMPLES = 300
HIDDEN = "4"
DECAY = 0.03  # keeps minima finite: without it cross-entropy has none to end at
RATE, BATCH = 0.15, 16
UPDATES = (5000, 20_000)  # with full gradients, quick and full
EPOCHS = (100, 600)  # with mini-batches
FULL, NOISY, COOLED = "full gradients", "SGD", "SGD, rate annealed"


def _arms(setting: Setting) -> Sequence[Arm]:
    del setting
    return [
        Arm(FULL, {"batch": None, "schedule": "constant"}),
        Arm(NOISY, {"batch": BATCH, "schedule": "constant"}),
        Arm(COOLED, {"batch": BATCH, "schedule": "cosine"}),
    ]


def _measure(task: Task) -> dict[str, Value]:
    data = part(task.data("digits"), SAMPLES, task.generator("samples"))
    inputs = data.train_inputs.double()
    targets = data.train_targets if data.classes else data.train_targets.double()
    model = task.network(HIDDEN, data, activation="tanh").double()
    loss = loss_for(data)
    batch = task.arm["batch"]
    size = None if batch is None else min(batch, len(inputs))
    recipe = Recipe(
        optimizer="gradient-descent" if batch is None else "sgd",
        batch_size=size,
        lr=RATE,
        weight_decay=DECAY,
        schedule=task.arm["schedule"],
        updates=UPDATES[task.full] if batch is None else None,
        epochs=None if batch is None else EPOCHS[task.full],
        seed=task.seed,
    )
    told = train(model, (inputs, targets), loss, recipe)
    if told.outcome == "diverged":
        return {"kind": "diverged", "updates": len(told.trace.loss)}
    return {"updates": len(told.trace.loss), **_end(model, (inputs, targets), loss, task.seed)}


def _end(
    model: nn.Module,
    samples: tuple[Tensor, Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
    seed: int,
) -> dict[str, Value]:
    point = classify(Problem(model, samples, loss, weight_decay=DECAY), seed=seed)
    low = point.lambda_min
    return {
        "kind": str(point.kind),
        "loss": point.loss,
        "gradient_norm": point.gradient_norm,
        "sampling_error": point.gradient_standard_error,
        "lowest": None if low is None else low.value,
        "ratio": point.minimum_ratio,
        "slope_pays": point.slope_decrease,
        "curvature_pays": point.curvature_decrease,
    }


def _decide(table: Table) -> Decision:
    kinds = {arm: table.texts("kind", arm) for arm in table.arms}
    stuck, arrived = kinds.get(FULL, []), kinds.get(NOISY, [])
    saddles = share(
        stuck.count(Kind.SADDLE),
        len(stuck),
        name="saddles among the ends of full gradients",
        unit="ends",
        comparisons=2,
    )
    minima = share(
        arrived.count(Kind.MINIMUM),
        len(arrived),
        name="minima among the ends of SGD",
        unit="ends",
        comparisons=2,
    )
    told = "; ".join(
        f"{arm}: {tally(found)}, loss {number(table.mean('loss', arm))}, ‖g‖ {number(table.mean('gradient_norm', arm), 2)}"
        for arm, found in kinds.items()
        if found
    )
    verdicts = [verdict_of(one, Side.ABOVE, 0.5) for one in (saddles, minima)]
    return Decision(combined(verdicts), f"Where training ended: {told}.", (saddles, minima))


def _pictures(table: Table) -> list[Picture]:
    known = [arm for arm in table.arms if table.texts("kind", arm)]
    kinds = list(dict.fromkeys(kind for arm in known for kind in table.texts("kind", arm)))
    bars = [_shares(table, known, kind) for kind in kinds]
    clouds = [
        Series(
            arm,
            tuple(table.column("gradient_norm", arm)),
            tuple(table.column("loss", arm)),
            kind="points",
        )
        for arm in known
        if table.column("gradient_norm", arm)
    ]
    return [
        Picture(
            name="kinds",
            title="Where training ends",
            caption="The share of ends of each kind, by the package's classification of the frozen loss over all samples, with exact "
            "intervals of 95 %.",
            x="",
            y="share of ends",
            series=tuple(bars),
            claimed=(
                Series(str(Kind.SADDLE), (FULL, NOISY), (1.0, 0.0), kind="bars"),
                Series(str(Kind.MINIMUM), (FULL, NOISY), (0.0, 1.0), kind="bars"),
            ),
        ),
        Picture(
            name="slopes",
            title="How flat the ends are",
            caption="The loss and the length of its gradient where each training ended.",
            x="length of the gradient, ‖g‖",
            y="loss, with weight decay",
            series=tuple(clouds),
            log_x=True,
        ),
    ]


def _shares(table: Table, arms: Sequence[str], kind: str) -> Series:
    found = [
        share(
            table.texts("kind", arm).count(kind),
            len(table.texts("kind", arm)),
            name=arm,
            unit="ends",
        )
        for arm in arms
    ]
    return Series(
        kind,
        tuple(arms),
        tuple(one.difference for one in found),
        tuple(one.low for one in found),
        tuple(one.high for one in found),
        "bars",
    )


STUDY = Study(
    name="endpoints",
    claim="Training with full gradients ends at saddle points and is stuck there, while the noise of mini-batches carries SGD on to minima",
    source="lecture notes on batches; Dauphin et al. (2014); Ge et al. (2015)",
    question="At what kind of point does training end, with and without noise in the gradient?",
    measured=f"Tanh networks of {HIDDEN} hidden units with weight decay on {SAMPLES} samples of digits, from random starts: the kind of "
    "the point where training ends, by exact eigenvalues where the network is small, "
    "its loss, slope and lowest curvature",
    rule="The share of saddles among the ends of full gradients and the share of minima among those of SGD, at a constant rate, against one "
    "half: supported if both whole intervals lie above, contradicted if one lies below (corrected for two comparisons), else inconclusive",
    criticism="Gradient descent from random starts avoids strict saddles almost surely (Lee et al., 2016), if slowly (Du et al., 2017). SGD at "
    "a constant rate comes to rest nowhere: it wanders about a minimum at a height that its rate sets, so that its ends are not "
    "critical; only with an annealed rate does it come to rest, if slowly.",
    arms=_arms,
    measure=_measure,
    decide=_decide,
    pictures=_pictures,
    seeds=(8, 20),
    takes=("data", "model"),
)
