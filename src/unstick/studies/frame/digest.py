"""By which code were the numbers of a study measured?

Answers: may arms that were measured before stand beside those of now?
Does not answer: how they are kept (``store``).
"""

import ast
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from re import findall

import torch

from unstick.studies.frame.plan import Setting, Study

__all__ = ["code_of", "files_of"]

ROOMS = (
    *("data", "problem", "spectrum", "critical", "landscape", "training", "diagnosis"),
    *("studies/measures", "studies/toys"),
)
"""What every study is measured with; a change in it makes older arms arms of another code."""
FRAME = {"plan.py": "Task", "running.py": "_measured"}
"""And of the frame, what an arm's numbers hang on."""


def code_of(study: Study) -> str:
    """A digest of the code that a study's numbers come from, and of torch's version.

    Of the study's own file only what measuring reaches counts: a caption or a rule may change, and arms stay what they were.
    """
    own = sha256(_rooms().encode())
    for part in (study.measure, study.arms, study.together):
        if part is not None:
            own.update(_reached(Path(part.__code__.co_filename), part.__qualname__).encode())
    return own.hexdigest()[:16]


def files_of(setting: Setting) -> dict[str, str]:
    """Digests of the user's files that data and model come from; they are code too."""
    found: dict[str, str] = {}
    for name in ("data", "model"):
        path = Path(str(getattr(setting, name)).rpartition(":")[0])
        if path.suffix == ".py" and path.is_file():
            found[name] = sha256(path.read_bytes()).hexdigest()[:16]
    return found


@cache
def _rooms() -> str:
    found = find_spec("unstick")
    assert found is not None
    assert found.submodule_search_locations is not None
    root = Path(found.submodule_search_locations[0])
    digest = sha256(torch.__version__.encode())
    for room in ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            digest.update(path.read_bytes())
    for file, name in FRAME.items():
        digest.update(_reached(root / "studies" / "frame" / file, name).encode())
    return digest.hexdigest()


def _reached(path: Path, first: str) -> str:
    """The source of what has this name and of all that it names of its own file; of a nested function, the whole file."""
    text = path.read_text(encoding="utf-8")
    parts: dict[str, str] = {}
    for statement in ast.parse(text).body:
        for name in _named(statement):
            parts[name] = ast.get_source_segment(text, statement) or ""
    if first not in parts:
        return text
    told: dict[str, str] = {}
    ahead = [first]
    while ahead:
        name = ahead.pop()
        if name not in told:
            told[name] = parts[name]
            ahead += [word for word in findall(r"\w+", parts[name]) if word in parts]
    return "\n".join(told[name] for name in sorted(told))


def _named(statement: ast.stmt) -> list[str]:
    """What a statement of a module defines: functions, classes, constants."""
    match statement:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Assign(targets=targets):
            return [target.id for target in targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
        case _:
            return []
