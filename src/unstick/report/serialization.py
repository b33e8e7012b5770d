"""Records as JSON and back: exact, versioned, and without executing anything from the file.

Answers: how is a record written down so that another program, or a later day, can read it?
Does not answer: how people read it; that is the terminal and the page.

The object of a record holds the schema, the name of its type, and its fields by name. A tensor is its dtype,
its shape and the base64 of its little-endian bytes; inf and nan are the strings ``"inf"``, ``"-inf"``,
``"nan"``. Reading is guided by the annotated fields of the known types, never by what the text claims.
"""

import base64
import binascii
import json
import math
import sys
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from unstick.errors import Unreadable, UnstickError

__all__ = ["SCHEMA", "TYPES", "from_json", "load", "to_json"]

SCHEMA = "unstick/1"
"""The version of the format; it changes whenever an old reader would misread a new text."""

Json = Any
"""A value as the JSON reader gives it, or as the JSON writer takes it."""

Hint = Any
"""An annotation of a field."""

TYPES: Mapping[str, str] = {
    "Block": "unstick.critical.layers",
    "Case": "unstick.studies.gallery.measuring",
    "Check": "unstick.studies.toys.toy",
    "Chord": "unstick.studies.toys.toy",
    "Comparison": "unstick.landscape.sharpness",
    "Conditioning": "unstick.training.standardizing",
    "Convexity": "unstick.landscape.convexity",
    "Cost": "unstick.problem.cost",
    "Course": "unstick.diagnosis.course",
    "CurvatureByLayer": "unstick.critical.layers",
    "Cut": "unstick.studies.toys.toy",
    "Demonstration": "unstick.studies.demo",
    "Density": "unstick.spectrum.density",
    "Diagnosis": "unstick.diagnosis.diagnosing",
    "Direction": "unstick.landscape.directions",
    "Effect": "unstick.studies.frame.comparing",
    "Ends": "unstick.spectrum.ends",
    "Escape": "unstick.critical.escaping",
    "Evidence": "unstick.diagnosis.evidence",
    "Flatness": "unstick.critical.flatness",
    "Found": "unstick.critical.found",
    "GalleryResult": "unstick.studies.gallery.measuring",
    "Ground": "unstick.studies.toys.toy",
    "Inertia": "unstick.spectrum.inertia",
    "Initialized": "unstick.training.initialization",
    "Interpolation": "unstick.landscape.interpolation",
    "Interval": "unstick.spectrum.interval",
    "Kept": "unstick.training.pretrained",
    "Layer": "unstick.diagnosis.portrait",
    "LayerMass": "unstick.critical.layers",
    "LayerSignal": "unstick.training.signals",
    "LayerState": "unstick.diagnosis.signals",
    "LayeredEnds": "unstick.critical.layers",
    "LeastSquares": "unstick.spectrum.least_squares",
    "Line": "unstick.landscape.line",
    "Outcome": "unstick.diagnosis.evidence",
    "Overview": "unstick.studies.frame.overview",
    "Pace": "unstick.diagnosis.diagnosing",
    "Pairs": "unstick.spectrum.ends",
    "Picture": "unstick.studies.frame.plan",
    "Plan": "unstick.critical.planning",
    "Plane": "unstick.landscape.plane",
    "Point": "unstick.critical.point",
    "Population": "unstick.training.population",
    "Portrait": "unstick.diagnosis.portrait",
    "Pretrained": "unstick.training.pretrained",
    "Profile": "unstick.critical.taylor",
    "Reach": "unstick.diagnosis.reach",
    "Recipe": "unstick.training.recipe",
    "Rescaled": "unstick.landscape.rescaling",
    "Row": "unstick.studies.frame.table",
    "RunTrace": "unstick.trace",
    "Score": "unstick.training.samples",
    "Search": "unstick.critical.found",
    "Series": "unstick.studies.frame.plan",
    "Sharpness": "unstick.landscape.sharpness",
    "SignalByLayer": "unstick.training.signals",
    "Signals": "unstick.diagnosis.signals",
    "Spot": "unstick.studies.toys.toy",
    "StalledRun": "unstick.diagnosis.stall",
    "Steps": "unstick.diagnosis.evidence",
    "StudyResult": "unstick.studies.frame.result",
    "Support": "unstick.diagnosis.rules",
    "Survey": "unstick.landscape.survey",
    "Swapped": "unstick.training.averaging",
    "Tally": "unstick.landscape.convexity",
    "Taylor": "unstick.studies.toys.toy",
    "ToleranceSweep": "unstick.spectrum.inertia",
    "Toy": "unstick.studies.toys.toy",
    "TraceEstimate": "unstick.spectrum.trace",
    "Trail": "unstick.studies.toys.toy",
    "Trained": "unstick.training.loop",
    "Trajectory": "unstick.diagnosis.trajectory",
    "Trial": "unstick.diagnosis.trials",
    "TrialPlan": "unstick.diagnosis.trials",
    "Unsticking": "unstick.studies.gallery.unsticking",
    "Violation": "unstick.landscape.convexity",
}
"""Every type that can be written, and the module it lives in; a module is imported when it is needed."""

DTYPES: Mapping[str, torch.dtype] = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    )
}


def to_json(record: object) -> str:
    """Write one record as one JSON object that ``from_json`` reads back exactly.

    Args:
        record: An instance of one of ``TYPES``; records inside it are written in place.

    Returns:
        One line of strict JSON. Tensors come back on the CPU, without a gradient history.

    Raises:
        TypeError: Not a record of this package.

    Example:
        >>> from unstick.problem.cost import Cost
        >>> to_json(Cost(samples=3))
        '{"schema": "unstick/1", "type": "Cost", "samples": 3, "gradients": 0.0, "seconds": 0.0}'
    """
    name = type(record).__name__
    if name not in TYPES or _known(name) is not type(record):
        raise TypeError(f"{name} is not a record of unstick; these are: {', '.join(TYPES)}")
    return json.dumps({"schema": SCHEMA, **_encoded(record)}, ensure_ascii=False, allow_nan=False)


def from_json(text: str) -> Any:
    """Read the record that ``to_json`` wrote.

    Args:
        text: One JSON object.

    Returns:
        A record equal to the written one in every field.

    Raises:
        Unreadable: Not JSON, not a record of this package, a schema that this version does not know, or a
            field that is missing, unknown or of the wrong type. The message is one line.

    Example:
        >>> from_json('{"schema": "unstick/1", "type": "Cost", "samples": 3, "gradients": 0.0, "seconds": 0.0}')
        Cost(samples=3, gradients=0.0, seconds=0.0)
    """
    try:
        document: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"this is not JSON: {_one_line(error)}") from None
    if not isinstance(document, dict) or "schema" not in document:
        raise Unreadable(
            'this is not a record of unstick: expected an object with "schema" and "type"'
        )
    known = cast(dict[str, object], document)
    if known.pop("schema") != SCHEMA:
        raise Unreadable(f'the schema is not the one this version reads, which is "{SCHEMA}"')
    name = known.get("type")
    if not isinstance(name, str) or name not in TYPES:
        raise Unreadable(f"the type is not a record of this version; these are: {', '.join(TYPES)}")
    return _decoded(known, _known(name), name)


def load(path: str | Path) -> Any:
    """Read the record that ``unstick.save(record, "….json")`` wrote.

    Args:
        path: A file that holds one JSON object.

    Raises:
        Unreadable: The file cannot be read, or is not a record; see ``from_json``.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Unreadable(f"{path} cannot be read: {_one_line(error)}") from None
    try:
        return from_json(text)
    except Unreadable as refusal:
        raise Unreadable(f"{path}: {refusal}") from None


@cache
def _known(name: str) -> type:
    return getattr(import_module(TYPES[name]), name)


@cache
def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _encoded(value: object) -> Json:
    match value:
        case None | bool() | int() | Enum():
            return value.value if isinstance(value, Enum) else value
        case str():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case Tensor():
            return _encoded_tensor(value)
        case tuple() | list():
            return [_encoded(item) for item in cast(list[object], value)]
        case dict():
            return {
                str(key): _encoded(item) for key, item in cast(dict[str, object], value).items()
            }
        case _ if is_dataclass(value) and not isinstance(value, type):
            inside = {field.name: _encoded(getattr(value, field.name)) for field in fields(value)}
            return {"type": type(value).__name__, **inside}
        case _:
            raise TypeError(f"a {type(value).__name__} cannot be written as JSON")


def _encoded_tensor(tensor: Tensor) -> dict[str, Any]:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    octets = flat.view(torch.uint8).reshape(-1, flat.element_size())
    if sys.byteorder == "big":
        octets = octets.flip(1)
    return {
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "base64": base64.b64encode(octets.numpy().tobytes()).decode("ascii"),
    }


def _decoded(value: Json, hint: Hint, where: str) -> Json:
    """The value as the annotated type says; ``where`` names the field for the message."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (types.UnionType, Union):
        return _decoded_union(value, inside, where)
    if origin is tuple:
        return _decoded_tuple(_expect(value, list, where), inside, where)
    if origin is list:
        items = _expect(value, list, where)
        if set(map(type, items)) <= _plain(inside[0]):  # a long trace is read ten times as fast
            return items
        return [_decoded(item, inside[0], f"{where}[{at}]") for at, item in enumerate(items)]
    if origin in (dict, Mapping):
        pairs = _expect(value, dict, where).items()
        return {key: _decoded(item, inside[1], f"{where}.{key}") for key, item in pairs}
    if hint is Tensor:
        return _decoded_tensor(value, where)
    if is_dataclass(hint):
        return _decoded_record(_expect(value, dict, where), cast(type, hint), where)
    if isinstance(hint, type) and issubclass(hint, Enum):
        try:
            return hint(value)
        except ValueError:
            raise Unreadable(f"{where} is not a {hint.__name__}: {_shown(value)}") from None
    if hint is float:
        return _decoded_float(value, where)
    if hint is type(None) or hint is None:
        return _expect(value, type(None), where)
    return _expect(value, hint, where)


@cache
def _plain(hint: Hint) -> frozenset[type]:
    """The types of which every value is read as it stands; none where each has to be looked at."""
    if get_origin(hint) in (types.UnionType, Union):
        return frozenset[type]().union(*map(_plain, get_args(hint)))
    if hint is float:
        return frozenset({float, int})
    return frozenset({hint}) if hint in (int, str, bool, type(None)) else frozenset()


def _decoded_union(value: Json, choices: tuple[Any, ...], where: str) -> Json:
    if value is None and type(None) in choices:
        return None
    refusals: list[Unreadable] = []
    for choice in choices:
        if choice is type(None):
            continue
        try:
            return _decoded(value, choice, where)
        except Unreadable as refusal:
            refusals.append(refusal)
    raise refusals[0]


def _decoded_tuple(items: list[Any], inside: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if len(inside) == 2 and inside[1] is Ellipsis:
        inside = (inside[0],) * len(items)
    if len(inside) != len(items):
        raise Unreadable(f"{where} has {len(items)} entries, expected {len(inside)}")
    return tuple(
        _decoded(item, hint, f"{where}[{at}]")
        for at, (item, hint) in enumerate(zip(items, inside, strict=True))
    )


def _decoded_record(document: dict[str, Any], kind: type, where: str) -> Json:
    if document.get("type") != kind.__name__:
        raise Unreadable(
            f"{where} is not a {kind.__name__}: type is {_shown(document.get('type'))}"
        )
    hints = _hints(kind)
    given = {key: value for key, value in document.items() if key != "type"}
    for key in sorted(hints.keys() ^ given.keys()):
        raise Unreadable(f"{where}.{key[:40]} is {'missing' if key in hints else 'not known'}")
    read = {key: _decoded(given[key], hint, f"{where}.{key}") for key, hint in hints.items()}
    try:
        return kind(**read)
    except UnstickError as refusal:  # such as a recipe with a negative rate
        raise Unreadable(f"{where}: {_one_line(refusal)}") from None


def _decoded_float(value: Json, where: str) -> float:
    """A whole number stays one, as it was written: a recipe of 10 epochs is not one of 10.0."""
    if value in ("inf", "-inf", "nan"):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unreadable(f"{where} is not a number: {_shown(value)}")
    return value


def _decoded_tensor(value: Json, where: str) -> Tensor:
    document = _expect(value, dict, where)
    dtype, shape = DTYPES.get(str(document.get("dtype"))), document.get("shape")
    if dtype is None or not isinstance(shape, list):
        raise Unreadable(f"{where} is not a tensor with a known dtype and a shape")
    sizes = cast(list[Any], shape)
    if not all(type(size) is int and size >= 0 for size in sizes):
        raise Unreadable(f"{where} has a shape that is not a list of sizes: {_shown(sizes)}")
    try:
        octets = base64.b64decode(_expect(document.get("base64"), str, where), validate=True)
    except (binascii.Error, ValueError):
        raise Unreadable(f"{where} holds text that is not base64") from None
    if len(octets) != math.prod(sizes) * dtype.itemsize:
        raise Unreadable(
            f"{where} holds {len(octets)} bytes, which is not {sizes} of {document['dtype']}"
        )
    flat = (
        torch.frombuffer(bytearray(octets), dtype=torch.uint8)
        if octets
        else torch.empty(0, dtype=torch.uint8)
    )
    rows = flat.reshape(-1, dtype.itemsize)
    if sys.byteorder == "big":
        rows = rows.flip(1)
    return rows.reshape(-1).view(dtype).reshape(sizes)


def _expect(value: Json, kind: type, where: str) -> Json:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise Unreadable(f"{where} is not a {kind.__name__}: {_shown(value)}")
    return value


def _shown(value: object) -> str:
    return repr(value)[:60]


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:120]
