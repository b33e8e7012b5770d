"""What ``unstick train`` is asked for, as the library takes it, and the files that it leaves.

Answers: which model, data and recipe do these options mean?
Does not answer: how training goes; that is ``unstick.training``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import click
import torch
from torch import Tensor, nn

import unstick
from unstick.cli.checkpoints import read_state_dict, save_checkpoint
from unstick.cli.targets import call_target
from unstick.data import load
from unstick.data.dataset import Dataset
from unstick.diagnosis.stall import StalledRun
from unstick.errors import BadCheckpoint, BadRecipe, BadTarget
from unstick.problem.problem import Problem
from unstick.training import (
    Population,
    Recipe,
    Trained,
    evaluate,
    load_pretrained,
    network,
    train,
    train_population,
    vary,
)
from unstick.training.loop import Progress
from unstick.training.optimizers import OPTIMIZERS, kind_of, make_optimizer

__all__ = ["Files", "Work", "files_of"]

LOSSES: Mapping[str, type[nn.Module]] = {
    "cross-entropy": nn.CrossEntropyLoss,
    "mse": nn.MSELoss,
    "mae": nn.L1Loss,
    "huber": nn.HuberLoss,
}
STALL_PATIENCE = 5


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """A training that was asked for."""

    models: tuple[nn.Module, ...]
    data: Dataset
    loss: nn.Module
    recipes: tuple[Recipe, ...]
    stall: bool  # to be diagnosed where it stalls

    @classmethod
    def of(
        cls,
        given: Mapping[str, Any],
        *,
        data_dir: Path | None,
        validate: float,
        vary: tuple[str, ...],
        stall: bool,
    ) -> Self:
        """From the options by name.

        Raises:
            UnstickError: Data, model or recipe cannot be used.
        """
        knobs = dict(given)
        name, spec, loss_name = knobs.pop("data"), knobs.pop("model"), knobs.pop("loss")
        raw, pretrained = knobs.pop("raw"), knobs.pop("pretrained")
        building = {key: knobs.pop(key) for key in ("activation", "normalize", "scheme")}
        recipe = _recipe(knobs)
        if stall and recipe.patience is None:
            recipe = replace(recipe, patience=STALL_PATIENCE)
        recipes = _varied(recipe, vary)
        data = load(name, folder=data_dir)
        if validate:
            data = data.split(validate, seed=recipe.seed)
        data = data if raw else data.standardized()
        models = tuple(_model(spec, data, each.seed, building, data_dir) for each in recipes)
        if pretrained is not None:
            state = read_state_dict(pretrained)
            for model in models:
                load_pretrained(model, state)
        chosen = loss_name or ("cross-entropy" if data.classes else "mse")
        return cls(models, data, LOSSES[chosen](), recipes, stall)

    @property
    def several(self) -> bool:
        """Whether there is more than one model."""
        return len(self.models) > 1

    def expected(self) -> str:
        """What it is, in one line."""
        count, samples = len(self.models), len(self.data.train_inputs)
        size = sum(p.numel() for p in self.models[0].parameters() if p.requires_grad)
        updates = max(recipe.updates_for(samples) for recipe in self.recipes)
        models = f"{count} models of" if count > 1 else "a model of"
        return (
            f"Training {models} {size:,} parameters on {samples:,} samples of {self.data.name}: "
            f"at most {updates:,} updates."
        )

    def done(
        self, checkpoint: Path | None, *, resume: bool, progress: Progress | None
    ) -> Trained | Population | StalledRun:
        """Train."""
        data, validation = (self.data.train_inputs, self.data.train_targets), _validation(self.data)
        if self.several:
            found = train_population(
                self.models, data, self.loss, self.recipes, validation=validation, progress=progress
            )
            pairs = zip(found.members, self.models, strict=True)
            return replace(found, members=tuple(self._scored(*pair) for pair in pairs))
        model, recipe = self.models[0], self.recipes[0]
        optimizer = None
        if (
            self.stall and OPTIMIZERS[recipe.optimizer].make is not None
        ):  # diagnosis asks it for more steps
            moved = [p for p in model.parameters() if p.requires_grad]
            optimizer = make_optimizer(recipe, moved, samples=len(data[0]))
        told = train(
            model,
            data,
            self.loss,
            recipe,
            optimizer=optimizer,
            validation=validation,
            checkpoint=checkpoint,
            resume=resume,
            progress=progress,
        )
        told = self._scored(told, model)
        if not (self.stall and told.outcome == "no progress"):
            return told
        problem = Problem(model, data, self.loss)
        found = unstick.diagnose(
            problem,
            optimizer,
            batch_size=recipe.size_of_batch(len(data[0])),
            history=told.trace,
            clip_norm=recipe.clip_norm,
            seed=recipe.seed,
            progress=progress,
        )
        return StalledRun(told, found)

    def _scored(self, told: Trained, model: nn.Module) -> Trained:
        """With a last look at the samples trained on and those never seen."""
        if told.outcome == "diverged":
            return told
        data, update = self.data, len(told.trace.loss)
        scores = [
            evaluate(model, (inputs, targets), self.loss, split=split, update=update)
            for split, inputs, targets in (
                ("training", data.train_inputs, data.train_targets),
                ("test", data.test_inputs, data.test_targets),
            )
        ]
        return replace(told, scores=(*told.scores, *scores))


@dataclass(frozen=True, slots=True)
class Files:
    """Where a training's results go."""

    folder: Path | None
    trace: Path | None

    @property
    def checkpoint(self) -> Path | None:
        """The state that a training goes on from."""
        return None if self.folder is None else self.folder / "checkpoint.safetensors"

    def write(self, told: Trained | Population | StalledRun, work: Work) -> None:
        """Models, traces and curves."""
        members = told.members if isinstance(told, Population) else (_trained(told),)
        if self.trace is not None:
            members[0].trace.write(self.trace)
        folder = self.folder
        if folder is None:
            return
        for number, (model, member) in enumerate(zip(work.models, members, strict=True)):
            name = f"-{number}" if work.several else ""
            path = folder / f"model{name}.safetensors"
            path.unlink(missing_ok=True)  # of the interrupted training that this one went on from
            save_checkpoint(model, path)
            member.trace.write(folder / f"trace{name}.jsonl")
        unstick.save(told, folder / "curves.html")
        click.echo(f"Model, trace and curves are in {folder}.", err=True)


def files_of(out: Path | None, *, trace: Path | None, resume: bool, several: bool) -> Files:
    """Check where results go, before the work.

    Raises:
        BadCheckpoint: Results are there already, or there is nothing to go on from.
        BadRecipe: Options that contradict one another.
    """
    if resume and out is None:
        raise BadRecipe("--resume needs --out, the folder that holds the checkpoint")
    if several and (resume or trace is not None):
        raise BadRecipe(
            "--resume and --trace are for one model; with --vary use --out for the traces"
        )
    if out is not None:
        there = sorted(path.name for path in out.glob("*.safetensors"))
        if there and not resume:
            raise BadCheckpoint(
                f"{out} holds a training already ({there[0]}); give --resume to go on with it, or another folder"
            )
        if resume and "checkpoint.safetensors" not in there:
            raise BadCheckpoint(f"{out} holds no checkpoint to go on from")
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadCheckpoint(f"{out} cannot be made: {error.strerror or error}") from None
    return Files(out, trace)


def _recipe(knobs: Mapping[str, Any]) -> Recipe:
    named = {name: value for name, value in knobs.items() if value is not None}
    size = named.pop("batch_size", None)
    whole = size == "full" or (size is None and _whole(str(named.get("optimizer", "sgd"))))
    try:
        batch = None if whole else 32 if size is None else int(size)
    except ValueError:
        raise BadRecipe(f"--batch-size is {size!r}; expected a number, or full") from None
    recipe = Recipe(**named, batch_size=batch)
    kind_of(recipe)  # refused now, not once the data are there
    return recipe


def _whole(optimizer: str) -> bool:
    return optimizer in OPTIMIZERS and OPTIMIZERS[optimizer].whole


def _varied(recipe: Recipe, asked: tuple[str, ...]) -> tuple[Recipe, ...]:
    knobs: dict[str, list[Any]] = {}
    for text in asked:
        name, separator, values = text.partition("=")
        if not separator or not values:
            raise BadRecipe(f"--vary is {text!r}; expected KNOB=VALUE,VALUE")
        knobs[name.replace("-", "_")] = [_value(each) for each in values.split(",")]
    return vary(recipe, **knobs)


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None if text in ("none", "full") else text


def _model(
    spec: str, data: Dataset, seed: int, building: Mapping[str, Any], data_dir: Path | None
) -> nn.Module:
    if ".py:" in spec:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = call_target(spec, data_dir=data_dir)
        if not isinstance(made, nn.Module):
            raise BadTarget(f"{spec} returned {type(made).__name__}; expected a torch.nn.Module")
        return made
    targets: Tensor = data.train_targets
    outputs = data.classes or (1 if targets.ndim == 1 else targets.shape[1])
    return network(
        spec,
        data.train_inputs[0],
        outputs,
        activation=building["activation"],
        normalization=building["normalize"],
        scheme=building["scheme"],
        seed=seed,
    )


def _validation(data: Dataset) -> tuple[Tensor, Tensor] | None:
    if data.validation_inputs is None or data.validation_targets is None:
        return None
    return data.validation_inputs, data.validation_targets


def _trained(told: Trained | StalledRun) -> Trained:
    return told.trained if isinstance(told, StalledRun) else told
