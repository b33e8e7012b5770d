"""Remedies: changes to a copy of a stuck run, each with the code that does the same to the user's own.

Answers: what can be changed about a run, and how is that written down?
Does not answer: which remedies to try (``choosing``), and whether they help (``trials``).

A remedy changes one copy in place before it is trained on. Two of different groups can be joined by ``+``: first the one,
then the other.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam

from unstick.critical.curvature import curvature_ends
from unstick.diagnosis.bench import best_of_cloud, draw_anew
from unstick.diagnosis.copies import Copy
from unstick.diagnosis.signals import Signals
from unstick.diagnosis.surgery import NotPossible, exchange
from unstick.errors import UnstickError
from unstick.problem.batches import Batch
from unstick.record import number
from unstick.training.initialization import initialize
from unstick.training.normalization import add_alike, insert_normalization
from unstick.training.order import generator_for
from unstick.training.standardizing import Standardized

__all__ = ["GROUPS", "Remedy"]

GROUPS: Final = {
    "model": "the model itself is changed",
    "place": "parameters are moved, or drawn anew",
    "objective": "what is minimized is changed",
    "step": "the step is changed",
    "batch": "batches have another size",
}
"""What a remedy changes; two of one group do not join. In the order in which joined ones are applied."""

CURVED = 256
"""Samples that a curvature is measured on."""

CURVATURE_PRICE = 40.0
"""Gradients of so many samples that it takes, about."""

FIRST_RATES = """
optimizer.state.clear()
for group in optimizer.param_groups:
    group["lr"] = group.get("initial_lr", group["lr"])"""
"""Code that lets an optimizer begin again."""

RECTIFIERS = (nn.ReLU, nn.ReLU6)
SIGMOIDS = (nn.Sigmoid, nn.Tanh, nn.Hardsigmoid, nn.Hardtanh, nn.Softsign)


@dataclass(frozen=True, slots=True)
class Remedy:
    """One change to a run.

    Attributes:
        name: Unique among those of a run.
        about: What it changes, a phrase.
        group: One of ``GROUPS``.
        change: Changes a copy in place; raises ``NotPossible`` where it does not fit.
        code: The same for a user's own ``model``, ``optimizer`` and ``loader``.
        keeps_weights: Whether what was learned stays.
        random: Whether another seed changes it otherwise.
        bound: Whether it holds numbers or names of the model as it is, so that no changed one can take it.
        price: Gradients that the change itself takes.
        key: What it is made again from, parts joined by " & ".
        joined: Those it was joined from, in the order in which they are applied.
    """

    name: str
    about: str
    group: str
    change: Callable[[Copy], None]
    code: str
    keeps_weights: bool = True
    random: bool = False
    bound: bool = False
    price: float = 0.0
    key: str = ""
    joined: tuple["Remedy", ...] = ()

    @property
    def groups(self) -> tuple[str, ...]:
        """All that it changes."""
        return tuple(part.group for part in self.parts)

    @property
    def parts(self) -> tuple["Remedy", ...]:
        """Those it was joined from, or itself."""
        return self.joined or (self,)

    @property
    def intrusion(self) -> tuple[bool, bool, int]:
        """How much it changes, to be compared: what was learned, the model, the number of changes."""
        return not self.keeps_weights, "model" in self.groups, len(self.groups)

    def __add__(self, other: "Remedy") -> "Remedy":
        """Both, part by part in the order of ``GROUPS``; parts of one group in the order given.

        Raises:
            NotPossible: One changes the model, and the other is bound to it as it is.
        """
        order = list(GROUPS)
        parts = sorted((*self.parts, *other.parts), key=lambda part: order.index(part.group))
        if any(part.bound for part in parts) and parts[0].group == "model":
            raise NotPossible("it belongs to the model as it is, and that is changed")

        def change(copy: Copy) -> None:
            for part in parts:
                part.change(copy)

        return Remedy(
            name=" + ".join(part.name for part in parts),
            about=", and ".join(part.about for part in parts),
            group=parts[0].group,
            change=change,
            code="\n".join(part.code for part in parts),
            keeps_weights=all(part.keeps_weights for part in parts),
            random=any(part.random for part in parts),
            bound=any(part.bound for part in parts),
            price=sum(part.price for part in parts),
            key=" & ".join(part.key for part in parts),
            joined=tuple(parts),
        )


# The step


def rate(multiple: float) -> Remedy:
    """Every learning rate times so much."""
    sign, by = ("×", multiple) if multiple >= 1 else ("÷", 1 / multiple)
    return Remedy(
        f"rate {sign} {number(by, 3)}",
        f"every learning rate {sign} {number(by, 3)}",
        "step",
        lambda copy: copy.set_rates(lambda each: each * multiple),
        f'for group in optimizer.param_groups:\n    group["lr"] *= {multiple:.6g}',
    )


def rate_of(value: float, name: str, about: str) -> Remedy:
    """Every learning rate the same number."""
    return Remedy(
        name,
        about,
        "step",
        lambda copy: copy.set_rates(lambda _: value),
        f'for group in optimizer.param_groups:\n    group["lr"] = {value:.6g}',
    )


def warm_up(value: float, updates: int) -> Remedy:
    """Back to a rate, over so many updates."""

    def change(copy: Copy) -> None:
        copy.set_rates(lambda _: value)
        copy.warmup = updates

    return Remedy(
        "warm-up",
        f"the rate back to {number(value)}, rising over {updates} updates",
        "step",
        change,
        f'for group in optimizer.param_groups:\n    group["lr"] = group["initial_lr"] = {value:.6g}\n'
        f"scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / {updates}, total_iters={updates - 1})"
        "  # in place of the old one: step it after every update",
    )


def momentum(value: float, *, multiple: float = 1.0) -> Remedy:
    """Momentum for plain SGD, Nesterov's from 0.95 on."""
    nesterov = value > 0.9
    slower = "" if multiple == 1 else f", rate × {number(multiple)}"

    def change(copy: Copy) -> None:
        if not isinstance(copy.optimizer, SGD):
            raise NotPossible(f"{type(copy.optimizer).__name__} has no momentum to set")
        for group in copy.optimizer.param_groups:
            group["momentum"], group["nesterov"], group["dampening"] = value, nesterov, 0.0
        copy.set_rates(lambda each: each * multiple)

    times = "" if multiple == 1 else f'\n    group["lr"] *= {multiple:.6g}'
    return Remedy(
        f"momentum {value}{slower}",
        f"{'Nesterov’s ' if nesterov else ''}momentum of {value}{slower}",
        "step",
        change,
        f'for group in optimizer.param_groups:\n    group["momentum"], group["nesterov"], group["dampening"] = {value}, {nesterov}, 0{times}',
    )


def adam(value: float) -> Remedy:
    """Adam instead of the run's optimizer, which sets a rate of its own too."""
    return Remedy(
        f"Adam {value:g}",
        f"Adam at {value:g} in place of the optimizer",
        "step",
        lambda copy: copy.step_by(Adam, lr=value),
        'groups = [{"params": g["params"], "weight_decay": g.get("weight_decay", 0.0)} for g in optimizer.param_groups]\n'
        f"optimizer = torch.optim.Adam(groups, lr={value:g})",
    )


def rate_by_curvature(samples: int) -> Remedy:
    """One over the largest curvature where the copy stands, by a few hundred samples."""

    def change(copy: Copy) -> None:
        here = copy.bench.problem.with_model(copy.model)
        part = here.subset(CURVED, seed=copy.seed) if here.samples > CURVED else here
        begin = part.spent
        ends = curvature_ends(part, lowest=0, highest=1, tolerance=0.05, budget=60, seed=copy.seed)
        copy.bench.count_gradients(round((part.spent - begin).gradients * max(1, here.samples)))
        top = float(ends.highest.values[0])
        if not top > 0:
            raise NotPossible("no curvature is positive")
        copy.set_rates(lambda _: 1 / top)

    return Remedy(
        "rate 1/λmax",
        "the rate one over the largest curvature there",
        "step",
        change,
        "here = problem.with_model(model)\n"
        "top = unstick.curvature_ends(here, lowest=0, highest=1, tolerance=0.05).highest.values[0]\n"
        'for group in optimizer.param_groups:\n    group["lr"] = 1 / float(top)',
        price=CURVATURE_PRICE * min(1.0, CURVED / max(1, samples)),
    )


def clip(limit: float | None) -> Remedy:
    """Clip gradients to another norm, to two digits, or not at all."""
    limit = None if limit is None else float(f"{limit:.2g}")

    def change(copy: Copy) -> None:
        copy.clip_norm = limit

    if limit is None:
        return Remedy(
            "no clipping",
            "gradients are not clipped",
            "step",
            change,
            "# leave out clip_grad_norm_",
        )
    return Remedy(
        f"clip at {number(limit, 2)}",
        f"gradients are clipped to {number(limit, 2)}",
        "step",
        change,
        f"torch.nn.utils.clip_grad_norm_(model.parameters(), {limit:.2g})  # between backward and step",
    )


def batch_of(size: int, name: str) -> Remedy:
    """Another batch size."""

    def change(copy: Copy) -> None:
        copy.batch_size = size

    return Remedy(
        name,
        f"{size:,} samples in a batch",
        "batch",
        change,
        f"loader = torch.utils.data.DataLoader(loader.dataset, batch_size={size}, shuffle=True, "
        "collate_fn=loader.collate_fn, drop_last=loader.drop_last)",
    )


# What is minimized


def decay(multiple: float) -> Remedy:
    """Less weight decay."""

    def change(copy: Copy) -> None:
        for group in copy.optimizer.param_groups:
            group["weight_decay"] = group.get("weight_decay", 0.0) * multiple

    name = "no decay" if multiple == 0 else f"decay ÷ {1 / multiple:g}"
    about = "no weight decay" if multiple == 0 else f"weight decay ÷ {1 / multiple:g}"
    return Remedy(
        name,
        about,
        "objective",
        change,
        f'for group in optimizer.param_groups:\n    group["weight_decay"] *= {multiple:g}',
    )


# The place


def noise(part: float) -> Remedy:
    """Random numbers added to all parameters: of the size of a start, or a part of that."""

    def change(copy: Copy) -> None:
        generator = generator_for("model", copy.seed)
        with torch.no_grad():
            for parameter in copy.model.parameters():
                if parameter.requires_grad:
                    drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                    parameter.add_((part * _width(parameter) * drawn).to(parameter))

    whole = part == 1
    return Remedy(
        "noise" if whole else "little noise",
        f"noise {'as large as' if whole else f'of {part:g} of'} a random start added to every parameter",
        "place",
        change,
        "with torch.no_grad():\n"
        "    for p in filter(lambda p: p.requires_grad, model.parameters()):\n"
        f"        p += {part:g} * (p[0].numel() ** -0.5 if p.ndim > 1 else 0.1) * torch.randn_like(p)",
        random=True,
    )


def _width(parameter: Tensor) -> float:
    """Deviation of a random start: by fan-in, and a tenth for vectors."""
    return parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1


def move_to(theta: Tensor, about: str) -> Remedy:
    """The parameters that an escape reached."""
    return Remedy(
        "escape",
        about,
        "place",
        lambda copy: copy.move_to(theta),
        "unstick.escape(problem)  # moves the model, and measures before and after",
        bound=True,
    )


def rescale() -> Remedy:
    """Weight matrices of more than twice the size of a start, scaled down to it; their directions stay."""

    def change(copy: Copy) -> None:
        shrunk = 0
        with torch.no_grad():
            for parameter in copy.model.parameters():
                if parameter.ndim < 2 or not parameter.requires_grad:
                    continue
                ratio = float(parameter.double().square().mean().sqrt()) / _width(parameter)
                if ratio > 2:
                    parameter.div_(ratio)
                    shrunk += 1
        if not shrunk:
            raise NotPossible("no weights are larger than twice those of a start")
        copy.forget()

    return Remedy(
        "weights rescaled",
        "large weight matrices are scaled down to the size of a start",
        "place",
        change,
        "with torch.no_grad():\n"
        "    for p in model.parameters():\n"
        "        if p.ndim > 1 and p.requires_grad:\n"
        "            ratio = p.double().square().mean().sqrt().item() * p[0].numel() ** 0.5\n"
        "            p /= ratio if ratio > 2 else 1.0\n"
        "optimizer.state.clear()",
    )


# The start


def new_start(scheme: str | None) -> Remedy:
    """New initial parameters for the whole model, and the optimizer's first rate without its memory.

    Args:
        scheme: Of ``initialize``; None: where there are no weights, every parameter N(0, as wide as it is).
    """

    def change(copy: Copy) -> None:
        if scheme is None:
            draw_anew(copy.model, copy.seed)
        else:
            try:
                initialize(copy.model, scheme, seed=copy.seed)
            except UnstickError as error:
                raise NotPossible(" ".join(str(error).split())) from None
        copy.forget()
        copy.to_first_rates()

    drawn = (
        "known = set()\n"
        "for module in model.modules():\n"
        '    if hasattr(module, "reset_parameters"):\n'
        "        module.reset_parameters()\n"
        "        known |= {id(p) for p in module.parameters(recurse=False)}\n"
        "with torch.no_grad():\n"
        "    for p in model.parameters():\n"
        "        if p.requires_grad and id(p) not in known:\n"
        "            p.copy_(max(1.0, p.abs().max().item()) * torch.randn_like(p))"
    )
    return Remedy(
        "new start",
        f"all parameters drawn anew{f' ({scheme})' if scheme else ''}, the optimizer's memory emptied",
        "place",
        change,
        (f'unstick.training.initialize(model, "{scheme}", seed=0)' if scheme else drawn)
        + FIRST_RATES,
        keeps_weights=False,
        random=True,
    )


def best_start(points: int) -> Remedy:
    """For few parameters: the best of many random ones."""

    def change(copy: Copy) -> None:
        theta, loss = best_of_cloud(copy.bench.problem, points, seed=copy.seed)
        if not math.isfinite(loss):
            raise NotPossible("no random parameters have a finite loss")
        copy.move_to(theta)
        copy.forget()
        copy.to_first_rates()

    return Remedy(
        "best of many starts",
        f"the best of {points} random parameter vectors",
        "place",
        change,
        "theta = problem.parameters()\n"
        f"starts = max(1.0, float(theta.abs().max())) * torch.randn({points}, len(theta), dtype=theta.dtype)\n"
        "problem.write(starts[problem.values(starts).nan_to_num(nan=torch.inf).argmin()])"
        + FIRST_RATES,
        keeps_weights=False,
        random=True,
        bound=True,
        price=points / 3,
    )


def revive(signals: Signals) -> Remedy:
    """Only the units that pass nothing back, drawn anew."""
    dead = {layer.module: layer.dead_units for layer in signals.layers if layer.dead_units}

    def change(copy: Copy) -> None:
        generator = generator_for("model", copy.seed)
        drawn = 0
        with torch.no_grad():
            for name, units in dead.items():
                weight = copy.parameters.get(f"{name}.weight")
                bias = copy.parameters.get(f"{name}.bias")
                if weight is None or weight.ndim < 2 or len(weight) <= max(units):
                    continue
                rows = torch.tensor(units)
                fresh = torch.randn((len(units), *weight.shape[1:]), generator=generator)
                weight[rows] = (fresh * math.sqrt(2) * _width(weight)).to(weight)
                if bias is not None:
                    bias[rows] = 0.0
                drawn += len(units)
        if not drawn:
            raise NotPossible("no dead unit belongs to a layer whose weights have a row a unit")
        copy.forget()

    listed = ", ".join(f'"{name}": {list(units)}' for name, units in dead.items())
    return Remedy(
        "dead units anew",
        f"the weights of {sum(map(len, dead.values()))} dead units drawn anew",
        "place",
        change,
        f"dead = {{{listed}}}\n"
        "with torch.no_grad():\n"
        "    for name, units in dead.items():\n"
        "        layer = model.get_submodule(name)\n"
        "        w = layer.weight\n"
        "        w[units] = (2 / w[0].numel()) ** 0.5 * torch.randn_like(w[units])\n"
        "        if layer.bias is not None:\n"
        "            layer.bias[units] = 0\n"
        "optimizer.state.clear()",
        random=True,
        bound=True,
    )


# The model


def normalize() -> Remedy:
    """Batch normalization before every hidden activation."""

    def change(copy: Copy) -> None:
        try:
            copy.put_in(insert_normalization(copy.model))
        except UnstickError as error:
            raise NotPossible(" ".join(str(error).split())) from None

    return Remedy(
        "batch normalization",
        "batch normalization before every hidden activation",
        "model",
        change,
        "plain, model = model, unstick.training.insert_normalization(model)\n"
        "unstick.training.hand_over(optimizer, plain, model)",
    )


def activations(names: Sequence[str], kind: type[nn.Module]) -> Remedy:
    """Another activation in the place of these."""

    def change(copy: Copy) -> None:
        for name in names:
            exchange(copy.model, name, kind())

    return Remedy(
        kind.__name__,
        f"{kind.__name__} in place of {len(names)} activation{'s' if len(names) > 1 else ''}",
        "model",
        change,
        _exchanged(names, f"torch.nn.{kind.__name__}()"),
    )


def outputs(names: Sequence[str], new: nn.Module, *, told: str) -> Remedy:
    """Another output in the place of what stands behind the last layer, which ``told`` names."""
    kind = type(new).__name__
    made = f"torch.nn.{new!r}"

    def change(copy: Copy) -> None:
        for k, name in enumerate(names):
            exchange(copy.model, name, nn.Identity() if k else new)

    code = _exchanged(names[:1], made)
    if names[1:]:
        code += "\n" + _exchanged(names[1:], "torch.nn.Identity()")
    plain = isinstance(new, nn.Identity)
    return Remedy(
        "plain outputs" if plain else f"{kind} outputs",
        f"{'nothing' if plain else kind} behind the last layer, in place of {told}",
        "model",
        change,
        code,
    )


def _exchanged(names: Sequence[str], made: str) -> str:
    listed = ", ".join(f'"{name}"' for name in names)
    return (
        f"for name in [{listed}]:\n"
        "    old = model.get_submodule(name)\n"
        "    for each, module in list(model.named_modules(remove_duplicate=False)):\n"
        "        if module is old:\n"
        '            parent, _, own = each.rpartition(".")\n'
        f"            setattr(model.get_submodule(parent), own, {made})"
    )


def standardize(
    batch: Batch, *, inputs: bool, targets: bool, plain: bool = False, squared: bool = True
) -> Remedy:
    """Inputs and targets of mean 0 and deviation 1 for the model; data and loss stay as they are.

    Args:
        batch: All data.
        inputs: Whether these are.
        targets: Whether these are.
        plain: The step is a multiple of the gradient, which grows with the targets' unit.
        squared: So does the loss, with its square.

    Raises:
        NotPossible: Batches are not (inputs, targets), or these are no floating-point tensors of samples.
    """
    pair = batch if isinstance(batch, (tuple, list)) and len(batch) == 2 else (None, None)
    x, y = (t if isinstance(t, Tensor) and t.is_floating_point() else None for t in pair)
    if (inputs and x is None) or (targets and (y is None or y.ndim != 2)):
        raise NotPossible("inputs or targets are not one floating-point tensor a batch")
    if inputs and x is not None and x.ndim not in (2, 4):
        raise NotPossible(
            f"inputs have {x.ndim} dimensions; features or images can be standardized"
        )
    what = " and ".join(w for w, asked in (("inputs", inputs), ("targets", targets)) if asked)

    def change(copy: Copy) -> None:
        given = {
            "inputs": x if inputs else None,
            "targets": y if targets else None,
        }
        copy.objective.model = Standardized(copy.model, **given)
        if targets and y is not None and plain:
            # the loss stays in the targets' unit, so that gradients are as much longer
            variance = float(y.double().var(0, correction=0).mean())
            copy.set_rates(lambda each: each / max(variance, 1e-24) ** (1.0 if squared else 0.5))

    arguments = ", ".join(f"{w}={w}" for w in what.split(" and "))
    slower = (
        "\nfor group in optimizer.param_groups:  # the loss keeps the targets' unit\n"
        f'    group["lr"] /= targets.double().var(0, correction=0).mean().item(){"" if squared else " ** 0.5"}'
        if targets and plain
        else ""
    )
    return Remedy(
        f"{what} standardized",
        f"{what} of mean 0 and deviation 1",
        "model",
        change,
        f"model = unstick.training.Standardized(model, {arguments})  # of all training data{slower}",
    )


def unfreeze() -> Remedy:
    """Frozen parameters are trained too."""

    def change(copy: Copy) -> None:
        frozen = [
            p
            for p in copy.model.parameters()
            if not p.requires_grad and (p.is_floating_point() or p.is_complex())
        ]
        if not frozen:
            raise NotPossible("no parameter is frozen")
        known = {id(p) for group in copy.optimizer.param_groups for p in group["params"]}
        for p in frozen:
            p.requires_grad_(True)
        new = [p for p in frozen if id(p) not in known]
        if new:
            add_alike(copy.optimizer, new)

    return Remedy(
        "frozen parts trained",
        "frozen parameters are trained too",
        "model",
        change,
        "frozen = [p for p in model.parameters() if not p.requires_grad]\n"
        "for p in frozen:\n"
        "    p.requires_grad_(True)\n"
        'held = {id(p) for g in optimizer.param_groups for p in g["params"]}\n'
        "frozen = [p for p in frozen if id(p) not in held]\n"
        'settings = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}\n'
        'optimizer.add_param_group({"params": frozen, **settings}) if frozen else None',
    )
