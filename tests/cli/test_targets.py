"""A target is a user's own file; its neighbors, its prints and its data folder are respected."""

import sys

import pytest

import unstick
from unstick.cli.targets import load_target


def test_a_problem_becomes_a_run_with_nothing_else(stuck):
    run = load_target(f"{stuck}:saddle")

    assert run.problem.n == 2
    assert run.optimizer is None


def test_a_run_is_taken_as_it_is(stuck):
    assert isinstance(load_target(f"{stuck}:run"), unstick.Run)


def test_neighbors_can_be_imported_and_the_path_is_put_back(stuck):
    (stuck.parent / "neighbor_of_stuck.py").write_text("from stuck_again import saddle\n")
    (stuck.parent / "stuck_again.py").write_text(stuck.read_text())
    before = list(sys.path)

    run = load_target(f"{stuck.parent / 'neighbor_of_stuck.py'}:saddle")

    assert run.problem.n == 2
    assert sys.path == before


def test_a_file_named_like_a_module_does_not_replace_it(stuck):
    file = stuck.parent / "unstick.py"
    file.write_text(stuck.read_text().replace("import unstick\n", "from unstick import Problem\n"))

    with pytest.raises(unstick.errors.BadTarget, match="NameError"):
        load_target(f"{file}:saddle")

    assert sys.modules["unstick"] is unstick


def test_the_data_folder_goes_to_a_function_that_asks_for_it(stuck, tmp_path):
    assert load_target(f"{stuck}:sized", data_dir=tmp_path / "four").problem.n == 4


def test_what_the_file_prints_goes_to_stderr(stuck, capsys):
    load_target(f"{stuck}:chatty")

    seen = capsys.readouterr()
    assert seen.out == ""
    assert seen.err == "loading the data\n"
