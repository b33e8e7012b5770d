"""Progress: a promise first, then plain lines or a bar, and never a word on stdout."""

import io
import sys
import time

import pytest

from unstick.cli import progress
from unstick.cli.progress import expected, watching


class Measured:
    """A problem of 1437 samples whose gradient takes 3.1 ms."""

    samples = 1437

    def price(self, gradients):
        return gradients * 0.0031


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_what_it_will_take_is_one_line():
    assert (
        expected(Measured(), 200)
        == "up to 200 gradients of 1,437 samples; one takes 3.1 ms here: at most about 0.6 s"
    )


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.0004, "0.4 ms"), (12, "12.0 s"), (600, "10 min"), (9000, "2.5 h")]
)
def test_durations_are_said_as_people_say_them(seconds, said):
    problem = Measured()
    problem.price = lambda _gradients: seconds

    assert expected(problem, 1).endswith(f"at most about {said}")


def test_the_promise_is_said_once_at_the_first_sign_of_work(capsys):
    with watching("up to 9", as_json=False, quiet=False) as watch:
        watch("products", 1, 9)
        watch("products", 2, 9)

    assert capsys.readouterr() == ("", "up to 9\n")


def test_the_promise_is_said_when_nothing_reports(capsys, monkeypatch):
    monkeypatch.setattr(progress, "PROMISE_AFTER", 0.01)

    with watching("up to 9", as_json=False, quiet=False):
        time.sleep(0.2)

    assert capsys.readouterr() == ("", "up to 9\n")


def test_a_refusal_comes_alone(capsys):
    with pytest.raises(ValueError, match="no"), watching("up to 9", as_json=True, quiet=False):
        raise ValueError("no")

    assert capsys.readouterr() == ("", "")


def test_plain_lines_come_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)

    with watching(None, as_json=True, quiet=False) as watch:
        watch("Hessian products", 1200, 4000)

    assert capsys.readouterr() == ("", "Hessian products: 1,200 of 4,000\n")


def test_plain_lines_say_how_long_the_rest_takes_at_the_pace_of_this_run(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    clock = iter([0.0, 0.0, 300.0, 600.0])
    monkeypatch.setattr(progress, "monotonic", lambda: next(clock))

    with watching(None, as_json=True, quiet=False) as watch:
        watch("ravine", 20, 40)  # twenty arms were in the store
        watch("ravine", 20, 40)
        watch("ravine", 25, 40)

    first, second, third = capsys.readouterr().err.splitlines()
    assert first == second == "ravine: 20 of 40"
    assert third == "ravine: 25 of 40; about 30 min left"  # five arms in ten minutes


def test_short_work_shows_no_line(capsys):
    with watching(None, as_json=False, quiet=False) as watch:
        watch("Hessian products", 1, 2)

    assert capsys.readouterr() == ("", "")


def test_quiet_is_quiet(capsys):
    with watching("up to 9", as_json=False, quiet=True) as watch:
        assert watch is None

    assert capsys.readouterr() == ("", "")


def test_what_a_model_prints_meanwhile_goes_to_stderr(capsys):
    with watching(None, as_json=True, quiet=True):
        print("debugging")  # noqa: T201 - what is tested

    assert capsys.readouterr() == ("", "debugging\n")


def test_on_a_terminal_a_bar_appears_after_a_while(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "BAR_AFTER", 0.0)

    with watching(None, as_json=False, quiet=False) as watch:
        watch("Hessian products", 3, 10)
        watch("line search", 1, 2)

    assert "Hessian products" in screen.getvalue()


def test_on_a_terminal_short_work_shows_no_bar(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)

    with watching("up to 9", as_json=False, quiet=False) as watch:
        watch("Hessian products", 3, 10)

    assert screen.getvalue() == "up to 9\n"
