"""A picture is the figure alone: named after it, titled, in the light page's colors, drawn by a real browser."""

import shutil
import struct

import pytest
import torch

from report.examples import trained
from unstick.errors import UnstickError
from unstick.landscape.plane import scan
from unstick.problem.problem import Problem
from unstick.report.figures import Figure
from unstick.report.page import save
from unstick.report.picture import drawing, picture_paths
from unstick.report.sections import figures_of


@pytest.fixture(scope="module")
def plane():
    problem = Problem.from_function(lambda x: x[0] ** 2 - x[1] ** 2, torch.zeros(2))
    at = torch.linspace(-1, 1, 5, dtype=torch.float64)
    return scan(problem, torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), x=at, y=at)


def roles(value):
    """Every string of a figure that still names a role instead of a color."""
    if isinstance(value, str):
        return [value] if value.startswith("@") else []
    if isinstance(value, dict):
        return [role for item in value.values() for role in roles(item)]
    if isinstance(value, list | tuple):
        return [role for item in value for role in roles(item)]
    return []


def test_several_figures_get_a_file_each_named_after_the_figure(plane, tmp_path):
    names = [path.name for _, path in picture_paths(plane, tmp_path / "at.png")]

    assert names == [f"at-{figure.name}.png" for figure in figures_of(plane)]
    assert len(names) > 1


@pytest.mark.parametrize("which", ["plane", "training"])
def test_no_role_is_left_where_a_color_belongs_and_the_title_is_in_the_picture(which, plane):
    for figure in figures_of(plane if which == "plane" else trained()):
        drawn, size = drawing(figure)

        assert roles(figure.traces)
        assert roles(drawn) == []
        assert drawn["layout"]["title"]["text"].replace("<br>", " ").startswith(figure.title[:20])
        assert size["height"] > figure.tall


def test_a_record_without_a_figure_is_refused_and_nothing_is_written(tmp_path):
    class Bare:
        pass

    with pytest.raises(UnstickError, match="has no figure"):
        picture_paths(Bare(), tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.browser
def test_a_browser_draws_every_figure_in_its_size(plane, tmp_path):
    if shutil.which("chromium") is None and shutil.which("google-chrome") is None:
        pytest.skip("no chromium on this machine")

    save(plane, tmp_path / "at.png")

    for figure, path in picture_paths(plane, tmp_path / "at.png"):
        data = path.read_bytes()
        width, height = struct.unpack(">II", data[16:24])
        size = drawing(figure)[1]
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        assert (width, height) == (2 * size["width"], 2 * size["height"])
        assert len(data) > 20_000  # an empty picture is a few kB


def test_of_a_mark_that_moves_the_picture_has_its_last_places_and_of_choices_the_first():
    moving = {"x": [1, 2, 3], "y": [4, 5, 6], "meta": {"at": [0, 1, 2], "keeps": 1}}
    still = {"x": [1, 2, 3], "y": [4, 5, 6]}
    choices = {"choices": [{"name": "a", "shows": [0]}, {"name": "b", "shows": [2]}]}
    figure = Figure("f", "t", "c", [still, moving, still], {"meta": choices})

    first, second, third = drawing(figure)[0]["data"]

    assert first == still
    assert (second["x"], second["y"]) == ([3], [6])
    assert third["visible"] is False


def test_room_for_the_names_grows_where_they_do_not_stand_side_by_side():
    def height(names, words=()):
        axis = {"type": "category", "categoryarray": list(words)} if words else {}
        traces = [{"type": "scatter", "x": [0], "y": [0], "name": name} for name in names]
        return drawing(Figure("a", "A title", "", traces, {"yaxis": axis}, wide=False))[1]["height"]

    short = height(["one", "two", "three", "four"])

    assert height(["one, of a long name", "two", "three", "four"]) == short
    assert height(["one, of a name so long that it takes a row", "two", "three", "four"]) > short
    beside = ["words so long beside the axis that they leave"]
    assert height(["one, of a long name", "two", "three", "four"], beside) > short
