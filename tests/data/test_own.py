"""A user's own data: what their function returns is taken, or refused in one line that names the place."""

import random
import sys
from textwrap import dedent

import pytest
import torch

from unstick.data import load
from unstick.errors import BadData

FILE = """
    import numpy as np
    import torch

    import unstick

    LIMIT = 3


    def numbers(count=10, kind=float):
        k = np.arange(count)
        return np.stack([k, 2 * k], axis=1).astype(kind), k % 3


    def two_arrays():
        return numbers()


    def four_tensors():
        x, y = torch.arange(6.0)[:, None], torch.arange(6)
        return x, y, x[:2].double(), y[:2].to(torch.uint8)


    def a_dataset():
        x, y = torch.ones(3, 1), torch.tensor([0, 1, 1])
        return unstick.data.Dataset("mine", x, y, x, y, "ones", classes=2)


    def regression():
        x = np.linspace(0, 1, 8)[:, None]
        return [x, x**2]


    def reversed_rows():
        x, y = numbers()
        return x[::-1], y[::-1], x, y


    def flags():
        x, _ = numbers()
        return x, x[:, 0] > 4, x, x[:, 0] > 4


    def seeded(seed=4, data_dir="home"):
        return torch.full((4, 1), float(seed)), torch.tensor([0, 1, 0, 1]), *checked(data_dir)


    def checked(data_dir):
        return torch.full((1, 1), float(len(str(data_dir)))), torch.tensor([0])


    def asking(data_dir, seed):
        assert data_dir is None
        return torch.full((4, 1), float(seed)), torch.zeros(4).long()


    def many(**options):
        return torch.full((4, 1), float(len(options))), torch.zeros(4).long()


    def needing(size):
        return numbers()


    def raising():
        return torch.zeros(2, 3) @ torch.zeros(2, 3)


    def leaving():
        raise SystemExit("bye")


    def stopped():
        raise KeyboardInterrupt


    def one():
        return torch.zeros(3, 1)


    def nothing():
        pass


    def three():
        return 1, 2, 3


    def lists():
        return [[0.0], [1.0]], [0, 1]


    def pixels():
        return numbers(kind=np.uint8)


    def words():
        return numbers()[0], np.array(["a"] * 10, dtype=object)


    def texts():
        return numbers()[0], np.array(["a"] * 10)


    def waves():
        return numbers()[0], torch.zeros(10, dtype=torch.complex64)


    def uneven():
        return numbers()[0], np.zeros(9)


    def uneven_test():
        x, y = numbers()
        return x, y, x, y[:5]


    def single():
        return numbers(1)


    def empty():
        return numbers(0) + numbers(0)


    def negative():
        x, y = numbers()
        return x, y - 1


    def mixed():
        x, y = numbers()
        return x, y, x, y.astype(float)
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / f"own_{tmp_path.name}.py"
    path.write_text(dedent(FILE))
    return path


def test_of_two_arrays_a_seeded_fifth_is_to_test_on_and_every_sample_keeps_its_target(file):
    data = load(f"{file}:two_arrays", seed=1)
    train, test = data.train_inputs[:, 0].tolist(), data.test_inputs[:, 0].tolist()

    assert data.train_inputs.dtype == torch.float32
    assert len(test) == 2
    assert sorted(train + test) == list(range(10))
    assert data.train_targets.tolist() == [k % 3 for k in train]
    assert data.test_targets.tolist() == [k % 3 for k in test]
    assert data.classes == 3
    assert data.name == f"{file}:two_arrays"
    assert "seed 1" in data.description
    assert load(f"{file}:two_arrays", seed=1).test_inputs.equal(data.test_inputs)
    others = [load(f"{file}:two_arrays", seed=seed).test_inputs for seed in range(2, 6)]
    assert not all(other.equal(data.test_inputs) for other in others)


def test_four_tensors_are_taken_in_their_order_and_types_are_unified(file):
    data = load(f"{file}:four_tensors")

    assert data.train_inputs[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert data.test_inputs.dtype == torch.float32
    assert data.test_targets.dtype == torch.int64
    assert data.test_targets.tolist() == [0, 1]
    assert data.classes == 6


def test_a_dataset_is_taken_as_it_is(file):
    data = load(f"{file}:a_dataset")

    assert (data.name, data.description, data.classes) == ("mine", "ones", 2)


def test_floating_point_targets_are_a_regression(file):
    data = load(f"{file}:regression")

    assert data.classes == 0
    assert data.train_targets.dtype == torch.float32
    assert torch.allclose(data.train_targets, data.train_inputs**2)


def test_views_that_run_backward_are_copied(file):
    assert load(f"{file}:reversed_rows").train_inputs[:, 0].tolist() == list(range(9, -1, -1))


def test_flags_are_two_classes(file):
    data = load(f"{file}:flags")

    assert (data.classes, data.train_targets.tolist()) == (2, [0] * 5 + [1] * 5)


def test_a_function_gets_the_seed_and_the_folder_that_it_asks_for(file, tmp_path):
    data = load(f"{file}:seeded", seed=9, folder=tmp_path)

    assert data.train_inputs[0].tolist() == [9]
    assert data.test_inputs[0].tolist() == [len(str(tmp_path))]


def test_a_default_of_the_users_own_stands_and_without_one_the_seed_is_0(file):
    assert load(f"{file}:seeded").train_inputs[0].tolist() == [4]
    assert load(f"{file}:seeded").test_inputs[0].tolist() == [len("home")]
    assert load(f"{file}:asking").train_inputs[0].tolist() == [0]
    assert load(f"{file}:many", seed=3).train_inputs[0].tolist() == [0]


def test_neighbors_can_be_imported_and_the_path_is_put_back(file):
    other = file.parent / f"next_to_{file.name}"
    other.write_text(f"from {file.stem} import two_arrays\n")
    before = list(sys.path)

    assert len(load(f"{other}:two_arrays").train_inputs) == 8
    assert sys.path == before


def test_a_file_named_like_a_module_does_not_replace_it(file):
    copy = file.parent / "random.py"
    copy.write_text(file.read_text())

    load(f"{copy}:two_arrays")

    assert sys.modules["random"] is random


def test_a_changed_file_is_read_anew(file):
    assert load(f"{file}:four_tensors").classes == 6
    file.write_text(file.read_text().replace("torch.arange(6)", "torch.arange(6) * 2"))

    assert load(f"{file}:four_tensors").classes == 11


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("raising", "calling raising raised RuntimeError: mat1 and mat2"),
        ("leaving", "calling leaving raised SystemExit: bye"),
        ("needing", "needs size; it is called with nothing but data_dir and seed"),
        ("LIMIT", "is int; expected a function"),
        ("ragression", "has no function ragression; it has regression"),
        ("zzzz", "has no function zzzz; it has numbers, two_arrays"),
        ("one", "returned Tensor; expected unstick.data.Dataset, "),
        ("nothing", "returned NoneType; expected"),
        ("three", "returned 3 things; expected"),
        ("lists", "returned list among its arrays; expected tensors or NumPy arrays"),
        ("pixels", "inputs of type torch.uint8; expected floating point: convert and scale"),
        ("words", "a NumPy array of type object; expected numbers"),
        ("texts", "a NumPy array of type <U1; expected numbers"),
        ("waves", "returned complex targets"),
        ("uneven", "inputs of shape [10, 2] and targets of shape [9]"),
        ("uneven_test", "the test part of"),
        ("single", "and at least two"),
        ("empty", "holds no sample"),
        ("negative", "has the class -1; expected 0 to 1"),
        ("mixed", "targets of type torch.int64 and classes=0"),
    ],
)
def test_what_is_no_data_is_refused_in_one_line(file, function, says):
    with pytest.raises(BadData) as refusal:
        load(f"{file}:{function}")

    assert says in str(refusal.value)
    assert str(file) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_the_line_is_the_one_in_the_users_file(file):
    line = file.read_text().splitlines().index("    return torch.zeros(2, 3) @ torch.zeros(2, 3)")

    with pytest.raises(BadData, match=f", line {line + 1}: calling raising"):
        load(f"{file}:raising")


def test_an_interrupt_is_no_mistake_of_the_users(file):
    with pytest.raises(KeyboardInterrupt):
        load(f"{file}:stopped")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def data(:\n", "line 1: importing it raised SyntaxError"),
        ("import torch\nimport no_such_thing\n", "line 2: importing it raised ModuleNotFoundError"),
        ("x = 1\n\nx.y\n", "line 3: importing it raised AttributeError"),
    ],
)
def test_a_file_that_cannot_be_imported_is_refused_and_leaves_no_half_module(tmp_path, text, says):
    broken = tmp_path / "broken_data_of_mine.py"
    broken.write_text(text)

    with pytest.raises(BadData, match=says):
        load(f"{broken}:data")

    assert "broken_data_of_mine" not in sys.modules


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("nowhere.py:data", "nowhere.py does not exist"),
        ("notes.txt:data", "expected file.py:function"),
        (":data", "expected file.py:function"),
        ("data.py:", "expected file.py:function"),
    ],
)
def test_what_names_no_function_is_refused(target, says):
    with pytest.raises(BadData, match=says):
        load(target)
