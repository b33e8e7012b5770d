import json
import math
import pkgutil
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import get_args, get_type_hints

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import unstick
from report.examples import every_record, point, trained
from unstick.critical.escaping import Escape
from unstick.errors import Unreadable
from unstick.problem.cost import Cost
from unstick.record import Record
from unstick.report.serialization import SCHEMA, TYPES, from_json, load, to_json
from unstick.spectrum.density import Density
from unstick.trace import RunTrace

NUMBERS = st.floats(allow_nan=True, allow_infinity=True)
DTYPES = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.uint8,
    torch.bool,
)


def same(one, other) -> bool:
    """Equal in type and in every bit, nan included."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        bits = torch.equal(
            one.contiguous().reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8)
        )
        return one.dtype == other.dtype and one.shape == other.shape and bits
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if is_dataclass(one):
        return all(same(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    return one == other or (one != one and other != other)


@pytest.mark.parametrize("record", every_record(), ids=lambda record: type(record).__name__)
def test_reading_what_was_written_gives_the_same_record(record):
    assert same(from_json(to_json(record)), record)


def descendants(kind) -> set[type]:
    return {kind}.union(*(descendants(each) for each in kind.__subclasses__()))


def inside(kind) -> set[type]:
    """The dataclasses among a hint and what it holds."""
    held = {kind} if is_dataclass(kind) else set()
    hints = get_type_hints(kind).values() if held else get_args(kind)
    return held.union(*(inside(hint) for hint in hints))


def test_every_record_of_the_package_and_every_dataclass_inside_one_can_be_written():
    for module in pkgutil.walk_packages(unstick.__path__, "unstick."):
        import_module(module.name)

    kinds = {kind for kind in descendants(Record) if kind.__module__.startswith("unstick.")}
    needed = set().union(*map(inside, kinds))
    assert {kind.__name__: kind.__module__ for kind in needed}.items() <= TYPES.items()
    shown = {type(record).__name__ for record in every_record()}
    assert {kind.__name__ for kind in kinds} - {"Record"} <= shown


@pytest.mark.parametrize("name", TYPES)
def test_every_registered_name_is_a_type_of_the_package(name):
    with pytest.raises(Unreadable, match=f"{name}[.].* is missing"):
        from_json(json.dumps({"schema": SCHEMA, "type": name}))


@settings(max_examples=60, deadline=None)
@given(st.text(), NUMBERS, NUMBERS, st.booleans(), st.integers(0, 10**12))
def test_any_text_and_any_number_survive(text, before, after, moved, samples):
    record = Escape(moved, before, after, 0.5, None, 1.0, 3, text, Cost(samples, 2.0, math.inf))

    written = to_json(record)

    assert same(from_json(written), record)
    json.loads(written, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@settings(max_examples=60, deadline=None)
@given(st.lists(NUMBERS, max_size=20), st.sampled_from(DTYPES), st.booleans())
def test_tensors_of_any_dtype_survive_bit_for_bit(values, dtype, transposed):
    values = values if dtype.is_floating_point else [len(values)] * len(values)
    grid = torch.tensor(values, dtype=torch.float64).to(dtype)
    grid = torch.stack([grid, grid.flip(0)]).T if transposed else grid
    record = Density(grid, grid, grid, 1.0, 2, 3, 0.0, 4, "complete")

    assert same(from_json(to_json(record)), record)


@given(st.lists(NUMBERS, max_size=30))
def test_a_run_survives_with_settings_that_were_not_recorded(losses):
    run = RunTrace.of_losses(losses)

    assert same(from_json(to_json(run)), run)


def test_a_recipe_reads_as_it_was_written():
    read = from_json(to_json(trained()))

    assert str(read.recipe) == str(trained().recipe)  # 20 epochs, not 20.0
    assert to_json(read) == to_json(trained())


def test_a_long_trace_is_read_with_its_gaps_and_infinities():
    trace = RunTrace()
    for loss in (1.0, math.inf, math.nan):
        trace.record(loss=loss, lr=None if math.isnan(loss) else 0.1, batch_size=3)

    assert same(from_json(to_json(trace)), trace)


def test_a_recipe_that_cannot_be_is_refused_by_name():
    document = json.loads(to_json(trained()))
    document["recipe"]["lr"] = -1.0

    with pytest.raises(Unreadable, match=r"Trained\.recipe: lr is -1\.0") as refusal:
        from_json(json.dumps(document))
    assert "\n" not in str(refusal.value)


def test_a_tensor_with_a_gradient_history_is_written_as_its_value():
    grid = torch.ones(2, requires_grad=True)
    record = Density(grid, grid, grid, 1.0, 2, 3, 0.0, 4, "complete")

    assert from_json(to_json(record)).grid.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1, 2]", "not a record"),
        ('{"type": "Cost"}', "not a record"),
        ('{"schema": "unstick/2", "type": "Cost"}', 'schema is not .* "unstick/1"'),
        ('{"schema": ["unstick/1"], "type": "Cost"}', "schema is not"),
        ('{"schema": "unstick/1", "type": "os.system"}', "type is not a record"),
        ('{"schema": "unstick/1", "type": ["Cost"]}', "type is not a record"),
        (
            '{"schema": "unstick/1", "type": "Cost", "samples": 1.5, "gradients": 0, "seconds": 0}',
            "samples is not a int",
        ),
        (
            '{"schema": "unstick/1", "type": "Cost", "samples": 1, "gradients": "x", "seconds": 0}',
            "gradients is not a number",
        ),
        (
            '{"schema": "unstick/1", "type": "Cost", "samples": 1, "gradients": 0, "seconds": 0, "evil": 1}',
            "evil is not known",
        ),
    ],
)
def test_what_is_not_a_record_is_refused_in_one_line(text, message):
    with pytest.raises(Unreadable, match=message) as refusal:
        from_json(text)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("kind",), "plateau", "kind is not a Kind"),
        (("kind",), ["saddle"], "kind is not a Kind"),
        (("inertia",), [1, 2], "inertia has 2 entries, expected 3"),
        (("cost",), {"type": "Interval"}, "cost is not a Cost"),
        (("cost",), None, "cost is not a dict"),
        (("eigenvalues", "dtype"), "complex64", "eigenvalues is not a tensor"),
        (("eigenvalues", "shape"), [-1], "shape"),
        (("eigenvalues", "shape"), [1], "bytes"),
        (("eigenvalues", "base64"), "§", "base64"),
    ],
)
def test_a_spoiled_field_is_refused_by_name(path, value, message):
    document = json.loads(to_json(point()))
    *outer, last = path
    place = document
    for key in outer:
        place = place[key]
    place[last] = value

    with pytest.raises(Unreadable, match=message):
        from_json(json.dumps(document))


def test_what_is_no_record_is_not_written():
    with pytest.raises(TypeError, match="not a record of unstick"):
        to_json({"schema": SCHEMA})


def test_a_file_that_is_not_there_is_refused_by_name(tmp_path):
    with pytest.raises(Unreadable, match=r"gone\.json cannot be read"):
        load(tmp_path / "gone.json")


def test_a_file_that_is_not_a_record_is_refused_by_name(tmp_path):
    (tmp_path / "other.json").write_text("{}")

    with pytest.raises(Unreadable, match=r"other\.json: this is not a record"):
        load(tmp_path / "other.json")
