"""Draws the gallery of landscapes: ``python docs/gallery/make.py``, or with the names of pictures.

Answers: what do the landscapes of real trainings look like?
Each picture is measured anew, drawn through kaleido and made small; the numbers go between the two marks of the page. Fashion-MNIST
is looked for where UNSTICK_DATA says, else downloaded. Needs kaleido, a Chromium, and Pillow (which comes with ``mnist1d``). Takes about
ten minutes for all on two cores.
"""

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image
from torch import nn

import unstick
from unstick.data import load
from unstick.record import Record, number
from unstick.report.picture import picture_paths, save_pictures
from unstick.studies.toys import make_toy

HERE = Path(__file__).parent
MARKS = re.compile(r"(<!-- written by make\.py -->\n).*?(<!-- until here -->)", re.DOTALL)
COLORS = (256, 128, 64)
LARGEST = 90_000  # bytes
SAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Shown:
    """One picture: what is measured, and which of its figures is kept."""

    title: str
    about: str
    measure: Callable[[], tuple[Record, str]]  # the record, and what to say about its numbers
    figure: str


def digits() -> unstick.Run:
    """A network on the digits, trained for 20 epochs, with its optimizer."""
    data = load("digits").standardized()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    return _trained(model, (data.train_inputs, data.train_targets), epochs=20)


def fashion(*, normalized: bool = False) -> unstick.Run:
    """A small convolutional network on 1,000 pictures of Fashion-MNIST, trained for ten epochs."""
    folder = os.environ.get("UNSTICK_DATA")
    data = load("fashion-mnist", folder=folder).standardized()
    torch.manual_seed(0)
    norm = [nn.BatchNorm2d(8)] if normalized else []
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), *norm, nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(400, 10),
    )  # fmt: skip
    return _trained(model, (data.train_inputs[:SAMPLES], data.train_targets[:SAMPLES]), epochs=10)


def _trained(
    model: nn.Module, data: tuple[torch.Tensor, torch.Tensor], *, epochs: int
) -> unstick.Run:
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    recipe = unstick.Recipe(optimizer="adam", lr=1e-3, batch_size=64, epochs=epochs, seed=0)
    unstick.train(model, data, nn.CrossEntropyLoss(), recipe, optimizer=optimizer)
    problem = unstick.Problem(model, data, nn.CrossEntropyLoss())
    return unstick.Run(problem, optimizer, batch_size=64)


def _plane(run: unstick.Run, kind: str, points: int) -> tuple[Record, str]:
    told = unstick.survey(run.problem, along=kind, points=points)  # pyright: ignore[reportArgumentType]
    plane = told.plane
    finite = plane.losses[torch.isfinite(plane.losses)]
    said = f"Losses from {number(float(finite.min()))} to {number(float(finite.max()))} on {points} × {points} points"
    if plane.curvatures is not None:
        said += f"; eigenvalues {number(plane.curvatures[0])} and {number(plane.curvatures[1])}"
    return plane, f"{said}; {told.cost.seconds:.1f} s."


def _training() -> tuple[Record, str]:
    data = load("digits").standardized()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    problem = unstick.Problem(model, (data.train_inputs, data.train_targets), nn.CrossEntropyLoss())
    run = unstick.Run(problem, torch.optim.Adam(model.parameters(), 1e-3), batch_size=64)
    way = unstick.trajectory(run, updates=400)
    plane = unstick.trajectory_plane(problem, way.thetas, points=41)
    assert plane.explained is not None
    shares = " and ".join(f"{100 * share:.0f} %" for share in plane.explained)
    return plane, f"{way.headline()} The axes hold {shares} of its variance."


def _between() -> tuple[Record, str]:
    first, second = fashion(normalized=True), fashion(normalized=True)
    one = {k: v.clone() for k, v in first.problem.model.state_dict().items()}
    torch.manual_seed(7)
    for module in second.problem.model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    inputs = load("fashion-mnist", folder=os.environ.get("UNSTICK_DATA")).standardized()
    data = (inputs.train_inputs[:SAMPLES], inputs.train_targets[:SAMPLES])
    again = _trained(second.problem.model, data, epochs=10)
    two = again.problem.model.state_dict()
    found = unstick.interpolate(first.problem, one, two, points=41, measures=("loss", "accuracy"))
    return found, found.headline()


def _search() -> tuple[Record, str]:
    data = load("digits").standardized()
    pictures = data.train_inputs[:600].reshape(-1, 1, 8, 8)
    inputs = nn.functional.avg_pool2d(pictures, 2).flatten(1)
    inputs = (inputs - inputs.mean(0)) / inputs.std(0).clamp_min(1e-6)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 4), nn.Tanh(), nn.Linear(4, 10))
    problem = unstick.Problem(
        model, (inputs, data.train_targets[:600]), nn.CrossEntropyLoss(), weight_decay=0.01
    )
    run = unstick.Run(problem, torch.optim.Adam(model.parameters(), 0.02, weight_decay=0.01))
    found = unstick.search_critical_points(run, starts=40, updates=3000, noise=0.01)
    return found, f"{found.headline()} {found.cost.seconds:.0f} s."


def _toy(name: str) -> tuple[Record, str]:
    toy = make_toy(name)
    return toy, toy.lesson


PICTURES = {
    "digits-random": Shown(
        "Digits, two random directions",
        "A network of 2,410 parameters after 20 epochs, along two filter-normalized directions.",
        lambda: _plane(digits(), "random", 51),
        "surface",
    ),
    "digits-eigenvectors": Shown(
        "Digits, the two outermost eigenvectors",
        "The same network along the eigenvectors of the lowest and the highest eigenvalue.",
        lambda: _plane(digits(), "eigenvectors", 51),
        "plane",
    ),
    "digits-training": Shown(
        "Digits, the way of a training",
        "400 updates of Adam, projected on their two principal components.",
        _training,
        "plane",
    ),
    "digits-search": Shown(
        "Digits, where searches for critical points end",
        "40 searches from along a training with weight decay, uniform in loss: every end by its minimum ratio.",
        _search,
        "ends",
    ),
    "fashion-random": Shown(
        "Fashion-MNIST, a small convolutional network",
        "1,000 pictures, ten epochs of Adam; two filter-normalized directions.",
        lambda: _plane(fashion(), "random", 41),
        "surface",
    ),
    "fashion-between": Shown(
        "Fashion-MNIST, between two trainings",
        "Two trainings of the same network from other initial parameters, with batch normalization whose statistics travel along.",
        _between,
        "interpolation",
    ),
    "two-weights": Shown("y = w₁w₂x", "The smallest network.", lambda: _toy("two-weights"), "above-1"),
    "ravine": Shown("A ravine", "Five optimizers from one start.", lambda: _toy("ravine"), "above-1"),
    "feature-scaling": Shown(
        "Feature scaling", "Linear regression before and after.", lambda: _toy("feature-scaling"), "above-1"
    ),
}  # fmt: skip


def main(names: list[str]) -> None:
    """Draw these pictures, or all, and write what was measured on the page."""
    torch.set_num_threads(2)
    page = HERE.parent / "gallery.md"
    text = page.read_text(encoding="utf-8")
    known = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", _between_marks(text), re.M | re.S))
    for name in names or PICTURES:
        shown = PICTURES[name]
        record, said = shown.measure()
        _draw(record, shown.figure, HERE / f"{name}.png")
        known[shown.title] = f"\n{shown.about} {said}\n\n![{shown.title}](gallery/{name}.png)\n\n"
        print(name, said, flush=True)
    parts = [
        f"## {one.title}\n{known[one.title]}" for one in PICTURES.values() if one.title in known
    ]
    body = "".join(parts).rstrip() + "\n\n"
    page.write_text(
        MARKS.sub(lambda found: f"{found[1]}\n{body}{found[2]}", text), encoding="utf-8"
    )


def _between_marks(text: str) -> str:
    found = MARKS.search(text)
    assert found is not None
    return found[0].split("\n", 1)[1].rsplit("<!--", 1)[0]


def _draw(record: Record, figure: str, path: Path) -> None:
    with TemporaryDirectory() as folder:
        place = Path(folder) / "at.png"
        save_pictures(record, place, scale=1.25)
        [drawn] = [file for one, file in picture_paths(record, place) if one.name == figure]
        image = Image.open(drawn).convert("RGB")
        for colors in COLORS:
            image.quantize(colors).save(path, optimize=True)
            if path.stat().st_size <= LARGEST:
                return


if __name__ == "__main__":
    main(sys.argv[1:])
