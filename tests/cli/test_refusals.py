"""Whatever cannot be done is one line on stderr and exit code 1; wrong usage is 2."""

import pytest

COMMANDS = ["diagnose", "escape", "spectrum"]


def assert_refused(result, *says):
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("unstick: ")
    assert result.stderr.count("\n") == 1, result.stderr
    for words in says:
        assert words in result.stderr


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("raising", ["calling raising raised RuntimeError: mat1 and mat2"]),
        ("exiting", ["calling exiting raised SystemExit: bye"]),
        ("nothing", ["nothing in", "returned NoneType; expected unstick.Problem or unstick.Run"]),
        ("unready", ["returned Sequential; expected"]),
        ("needing", ["needing in", "needs size"]),
        ("LIMIT", ["LIMIT in", "is int, not a function"]),
        ("sadle", ["has no function sadle; it has saddle"]),
        ("zzzz", ["has no function zzzz; it has network, data"]),
    ],
)
def test_a_function_that_gives_no_problem_is_refused(call, stuck, command, function, says):
    assert_refused(call(command, f"{stuck}:{function}"), *says)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("stuck.py", "expected file.py:function"),
        ("nowhere.py:problem", "nowhere.py does not exist"),
        ("notes.txt:problem", "is not a Python file"),
        (":problem", "expected file.py:function"),
        ("stuck.py:", "expected file.py:function"),
    ],
)
def test_what_is_no_target_is_refused(call, target, says):
    assert_refused(call("diagnose", target), says)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def problem(:\n", ["line 1: importing it raised SyntaxError"]),
        (
            "import torch\nimport no_such_thing\n",
            ["line 2", "ModuleNotFoundError", "no_such_thing"],
        ),
        ("x = 1\n\nx.y\n", ["line 3", "AttributeError"]),
        ("\0", ["importing it raised"]),
    ],
)
def test_a_file_that_cannot_be_imported_is_refused_with_its_line(call, tmp_path, text, says):
    file = tmp_path / "broken.py"
    file.write_text(text)

    assert_refused(call("diagnose", f"{file}:problem"), str(file), *says)


def test_the_line_is_the_one_in_the_users_file(call, stuck):
    line = stuck.read_text().splitlines().index("    return network()(torch.zeros(5))") + 1

    assert_refused(call("diagnose", f"{stuck}:raising"), f"line {line}:")


@pytest.mark.parametrize("command", ["escape", "spectrum"])
def test_a_budget_that_pays_for_nothing_is_refused(call, stuck, command):
    assert_refused(call(command, f"{stuck}:moving", "--budget", 1), "budget")


@pytest.mark.parametrize(
    "arguments",
    [
        ["diagnose"],
        ["nonsense"],
        ["diagnose", "stuck.py:problem", "--budget", "0"],
        ["diagnose", "stuck.py:problem", "--budget", "many"],
        ["diagnose", "stuck.py:problem", "--html", "page.pdf"],
        ["diagnose", "stuck.py:problem", "--html", "no/such/folder/page.html"],
        ["demo", "--data", "cifar"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_2(call, arguments):
    result = call(*arguments)

    assert result.exit_code == 2
    assert "Traceback" not in result.stderr


def test_an_interrupt_before_there_is_an_answer_is_said(call, tmp_path):
    file = tmp_path / "patient.py"
    file.write_text("def problem():\n    raise KeyboardInterrupt\n")

    assert_refused(call("diagnose", f"{file}:problem"), "interrupted")


def test_a_demo_without_its_data_is_refused(call, tmp_path):
    assert_refused(
        call("demo", "--data", "mnist", "--data-dir", tmp_path / "nowhere"), "is not a folder"
    )
