"""Everything public in the package has a docstring: modules, classes, functions, methods."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "unstick"
Definition = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def undocumented(path):
    """The public definitions of one file that have no docstring, as ``line: name``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if ast.get_docstring(tree) is None:
        yield "1: the module"
    yield from _inside(tree, "")


def _inside(node, prefix):
    for child in node.body:
        if not isinstance(child, Definition) or child.name.startswith("_"):
            continue
        if ast.get_docstring(child) is None and not _is_overload(child):
            yield f"{child.lineno}: {prefix}{child.name}"
        if isinstance(child, ast.ClassDef):
            yield from _inside(child, f"{prefix}{child.name}.")


def _is_overload(node):
    names = [getattr(mark, "attr", getattr(mark, "id", "")) for mark in node.decorator_list]
    return "overload" in names


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_everything_public_has_a_docstring(path):
    assert list(undocumented(path)) == []
