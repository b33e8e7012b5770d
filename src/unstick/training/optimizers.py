"""Optimizers by name, and which implementation serves each.

Answers: what does this name mean here, with which defaults, and how does it differ from the paper?
Does not answer: which optimizer is the better one; that takes a study.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from torch import nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

from unstick.errors import BadRecipe
from unstick.training.layerwise import LAMB, LARS
from unstick.training.recipe import Recipe
from unstick.training.rmsprop_warmup import RMSpropWarmUp
from unstick.training.rules import RuleOptimizer
from unstick.training.settings import check_choice

__all__ = ["OPTIMIZERS", "Kind", "kind_of", "make_optimizer", "settings_of"]

Make = Callable[[Any, Mapping[str, Any]], Optimizer]
"""Parameters and settings → optimizer."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What an optimizer's name means."""

    about: str  # one line
    served_by: str  # the implementation
    differs: str  # from the paper, or from what else goes by the name
    defaults: Mapping[str, float]  # lr and the settings it has
    make: Make | None  # None: it works on whole problems (``curvature``)
    rule: str | None = None  # the name in ``RULES`` by which a population updates
    whole: bool = False  # takes all samples in every update


def _fused(parameters: list[nn.Parameter]) -> dict[str, bool]:
    """One kernel for all parameters, where torch has it. On a CPU plain SGD is faster without (measured: 0.9 to 1)."""
    cpu = all(p.device.type == "cpu" and p.is_floating_point() for p in parameters)
    return {"fused": True} if cpu else {}


def _torch(kind: Callable[..., Optimizer], *, fused: bool = True, **fixed: Any) -> Make:
    def make(parameters: Any, settings: Mapping[str, Any]) -> Optimizer:
        listed = list(parameters)
        given = dict(settings)
        if "beta1" in given:
            given["betas"] = (given.pop("beta1"), given.pop("beta2"))
        return kind(listed, **given, **fixed, **(_fused(listed) if fused else {}))

    return make


def _rule(name: str) -> Make:
    return lambda parameters, settings: RuleOptimizer(parameters, name, **settings)


def _lars(parameters: Any, settings: Mapping[str, Any]) -> Optimizer:
    return LARS(parameters, **settings)


def _lamb(parameters: Any, settings: Mapping[str, Any]) -> Optimizer:
    betas = settings["beta1"], settings["beta2"]
    return LAMB(
        parameters,
        lr=settings["lr"],
        betas=betas,
        eps=settings["eps"],
        weight_decay=settings["weight_decay"],
    )


def _rmsprop_warm_up(parameters: Any, settings: Mapping[str, Any]) -> Optimizer:
    return RMSpropWarmUp(parameters, lr=settings["lr"], weight_decay=settings["weight_decay"])


ADAM = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}

OPTIMIZERS: Final[Mapping[str, Kind]] = {
    "gradient-descent": Kind(
        "θ ← θ − η g, all samples in every update",
        "torch.optim.SGD",
        "not at all",
        {"lr": 0.1},
        _torch(SGD, fused=False),
        rule="gradient-descent",
        whole=True,
    ),
    "sgd": Kind(
        "the same on mini-batches; with momentum as torch has it",
        "torch.optim.SGD",
        "with momentum: as `momentum`",
        {"lr": 0.1, "momentum": 0.0},
        _torch(SGD, fused=False),
        rule="momentum",
    ),
    "momentum": Kind(
        "b ← μ b + g; θ ← θ − η b",
        "torch.optim.SGD(momentum=…)",
        "a change of η changes the weight of past gradients too; in `heavy-ball` it does not",
        {"lr": 0.1, "momentum": 0.9},
        _torch(SGD, fused=False),
        rule="momentum",
    ),
    "heavy-ball": Kind(
        "m ← λ m − η g; θ ← θ + m",
        "ours",
        "not at all (Polyak 1964); equal to `momentum` while η stays",
        {"lr": 0.1, "momentum": 0.9},
        _rule("heavy-ball"),
        rule="heavy-ball",
    ),
    "nesterov": Kind(
        "b ← μ b + g; θ ← θ − η (g + μ b)",
        "torch.optim.SGD(nesterov=True)",
        "the gradient is taken at the point itself, after a change of variables (Sutskever et al. 2013)",
        {"lr": 0.1, "momentum": 0.9},
        _torch(SGD, fused=False, nesterov=True),
        rule="nesterov",
    ),
    "adagrad": Kind(
        "θ ← θ − η g / (√Σg² + ε)",
        "torch.optim.Adagrad",
        "not at all (Duchi et al. 2011, diagonal form)",
        {"lr": 0.05, "eps": 1e-10},
        _torch(Adagrad),
        rule="adagrad",
    ),
    "adagrad-rms": Kind(
        "θ ← θ − η g / σ, σ the root mean square of all gradients",
        "ours",
        "of lecture notes: Duchi's has the sum, which is this with η/√(t+1)",
        {"lr": 1e-3, "eps": 1e-10},
        _rule("adagrad-rms"),
        rule="adagrad-rms",
    ),
    "rmsprop": Kind(
        "v ← α v + (1 − α) g² from 0; θ ← θ − η g / (√v + ε)",
        "torch.optim.RMSprop",
        "the average starts at 0 and is not corrected: the first step is η/√(1 − α) long",
        {"lr": 1e-3, "alpha": 0.99, "eps": 1e-8},
        _torch(RMSprop, fused=False),
        rule="rmsprop",
    ),
    "rmsprop-notes": Kind(
        "the same from σ⁰ = |g⁰|",
        "ours",
        "of lecture notes: the first step is η long",
        {"lr": 1e-3, "alpha": 0.99, "eps": 1e-8},
        _rule("rmsprop-notes"),
        rule="rmsprop-notes",
    ),
    "adam": Kind(
        "θ ← θ − η m̂ / (√v̂ + ε)",
        "torch.optim.Adam",
        "not at all (Kingma and Ba 2015, algorithm 1); weight decay goes through the gradient",
        ADAM,
        _torch(Adam),
        rule="adam",
    ),
    "adamw": Kind(
        "θ ← (1 − η λ) θ, then Adam",
        "torch.optim.AdamW",
        "the decay is scaled by η (Loshchilov and Hutter 2019 scale it by the schedule alone)",
        ADAM,
        _torch(AdamW),
        rule="adamw",
    ),
    "lars": Kind(
        "each layer's rate is proportional to ‖θ‖ / (‖g‖ + β‖θ‖)",
        "ours",
        "not at all (You et al. 2017): η inside the momentum; a layer with a norm of 0 has ratio 1",
        {"lr": 1.0, "momentum": 0.9, "trust": 1e-3},
        _lars,
    ),
    "lamb": Kind(
        "Adam's direction with decay, each layer's as long as ‖θ‖",
        "ours",
        "not at all (You et al. 2020, algorithm 2, φ the identity); a layer with a norm of 0 has ratio 1",
        {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-6},
        _lamb,
    ),
    "rmsprop-warmup": Kind(
        "from RMSprop to SGD with momentum over the first epochs",
        "ours",
        "the linear piece of α_SGD has the slope that makes it continuous (Akiba et al. 2017)",
        {"lr": 0.1},
        _rmsprop_warm_up,
    ),
    "perturbed-gradient-descent": Kind(
        "gradient descent, and noise where ‖g‖ is small",
        "ours",
        "radius, threshold and wait are settings (Jin et al. 2017 derive them from constants nobody knows)",
        {"lr": 0.1, "radius": 1e-2},
        None,
        whole=True,
    ),
    "negative-curvature": Kind(
        "gradient descent, and a step along the lowest eigenvector where ‖g‖ is small",
        "ours, on the package's eigenvalues",
        "the step is found by backtracking on the loss",
        {"lr": 0.1},
        None,
        whole=True,
    ),
    "saddle-free-newton": Kind(
        "−|H|⁻¹ g in a Krylov space",
        "ours, on the package's Lanczos",
        "damped, with backtracking on the loss (Dauphin et al. 2014)",
        {"lr": 1.0, "rank": 20},
        None,
        whole=True,
    ),
}
"""Every optimizer that a recipe can name."""


def kind_of(recipe: Recipe) -> Kind:
    """What the recipe's optimizer is.

    Raises:
        BadRecipe: No such name, a setting that this optimizer has not, or a batch where it takes all samples.
    """
    name = recipe.optimizer
    check_choice(OPTIMIZERS, optimizer=name)
    kind = OPTIMIZERS[name]
    knobs = ("momentum", "beta1", "beta2", "alpha", "eps", "trust", "radius", "rank")
    for knob in knobs:
        if getattr(recipe, knob) is not None and knob not in kind.defaults:
            raise BadRecipe(f"{name} has no {knob}; it has {', '.join(kind.defaults)}")
    if kind.whole and recipe.batch_size is not None:
        raise BadRecipe(
            f"{name} takes all samples in every update, and batch_size is {recipe.batch_size}; expected None"
        )
    return kind


def settings_of(recipe: Recipe, *, samples: int) -> dict[str, float]:
    """The optimizer's settings, defaults filled in, the rate scaled to the batch size."""
    kind = kind_of(recipe)
    settings = {
        name: default if getattr(recipe, name) is None else getattr(recipe, name)
        for name, default in kind.defaults.items()
    }
    settings["lr"] = recipe.rate(kind.defaults["lr"], samples)
    settings["weight_decay"] = recipe.weight_decay
    return settings


def make_optimizer(
    recipe: Recipe, parameters: Iterable[nn.Parameter], *, samples: int
) -> Optimizer:
    """The recipe's optimizer for these parameters.

    Args:
        recipe: Names it.
        parameters: What it moves.
        samples: In the training data, which full batches and scaled rates refer to.

    Raises:
        BadRecipe: As ``kind_of``, or the optimizer works on whole problems: ``train`` makes those itself.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> make_optimizer(Recipe(optimizer="adam"), layer.parameters(), samples=8).defaults["lr"]
        0.001
    """
    kind = kind_of(recipe)
    if kind.make is None:
        raise BadRecipe(f"{recipe.optimizer} needs the whole problem; use train()")
    return kind.make(list(parameters), settings_of(recipe, samples=samples))
