"""What ``import unstick`` offers, and how little it costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import unstick

PROMISED = {
    "Diagnosis",
    "Ends",
    "Escape",
    "Kind",
    "Point",
    "Problem",
    "Run",
    "RunTrace",
    "UnstickError",
    "classify",
    "curvature_ends",
    "diagnose",
    "errors",
    "escape",
    "load",
    "save",
    "scan",
    "spectral_density",
}
HEAVY = ["plotly", "sklearn", "scipy", "rich", "jinja2", "torch"]


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_what_was_promised_is_offered():
    assert set(unstick.__all__) >= PROMISED


@pytest.mark.parametrize("name", unstick.__all__)
def test_every_public_name_resolves(name):
    assert getattr(unstick, name) is not None
    assert name in dir(unstick)


def test_every_lazy_name_is_the_one_that_type_checkers_see():
    tree = ast.parse(Path(unstick.__file__).read_text(encoding="utf-8"))
    typed = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module
        for node in typed.body
        for alias in node.names
        if node.module != "unstick"
    }

    assert seen == unstick._PLACES
    assert set(seen) == set(unstick.__all__) - {"__version__", *unstick._MODULES}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'unstick' has no attribute 'unstuck'"):
        unstick.unstuck  # noqa: B018 - what is tested


def test_import_unstick_imports_nothing_heavy():
    code = f"import sys, unstick; print([name for name in {HEAVY} if name in sys.modules])"

    assert run(code).strip() == "[]"


def test_import_unstick_adds_less_than_half_a_second_to_import_torch():
    code = "; ".join(
        [
            "import time, torch",
            "began = time.perf_counter()",
            "import unstick",
            "print(time.perf_counter() - began)",
        ]
    )

    assert min(float(run(code)) for _ in range(3)) < 0.5


def test_a_problem_imports_nothing_that_only_reports_need():
    code = (
        "import sys, unstick; unstick.Problem, unstick.classify, unstick.escape; "
        "print([name for name in ['plotly', 'sklearn', 'rich', 'jinja2'] if name in sys.modules])"
    )

    assert run(code).strip() == "[]"


def test_the_version_is_the_installed_one():
    from importlib.metadata import version

    assert unstick.__version__ == version("unstick")


def test_the_command_line_starts_without_torch():
    code = "import sys, unstick.cli.main; print('torch' in sys.modules)"

    assert run(code).strip() == "False"
