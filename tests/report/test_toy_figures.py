"""Toys as drawn: what is in the figures, and what a browser makes of them when a reader plays."""

import os
import shutil
from functools import cache

import pytest

from unstick.report.page import save
from unstick.report.serialization import from_json, to_json
from unstick.report.toy_figures import checks_table, steps_table, toy_figures
from unstick.studies.toys import TOYS, make_toy

CHROMIUM = shutil.which("chromium")
SWITCHES = ["--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader"]
DRAWN = "document.documentElement.dataset.drawn"
EMPTY = """() => [...document.querySelectorAll('.plot')].filter(plot => {
    const marks = plot.querySelectorAll('.trace path, .contourlayer path, canvas');
    return ![...marks].some(mark => mark.getBoundingClientRect().width > 3);
}).map(plot => plot.id)"""
LENGTHS = "(id) => document.getElementById(id).data.map(trace => trace.x ? trace.x.length : 0)"
SHOWN = "(id) => document.getElementById(id).data.map(trace => trace.visible !== false)"


@cache
def made(name):
    return make_toy(name)


def figure(name, wanted):
    (found,) = [each for each in toy_figures(made(name)) if each.name == wanted]
    return found


def named(figure, name):
    (found,) = [
        each
        for each in figure.traces
        if each.get("name") == name and each["mode"] != "markers" and each.get("showlegend", True)
    ]
    return found


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("two-weights", ["above-1", "space", "course-1"]),
        ("saddle-and-minimum", ["space", "above-1", "errors-1"]),
        ("opened-minimum", ["cut-1", "above-1", "space", "course-1"]),
        ("convex-and-nonconvex", ["cut-1", "cut-2"]),
    ],
)
def test_each_toy_has_its_figures(name, expected):
    assert [each.name for each in toy_figures(made(name))] == expected


@pytest.mark.parametrize("name", ["two-weights", "saddle-and-minimum", "convex-and-nonconvex"])
def test_a_toy_is_written_and_read_back_exactly(name):
    text = to_json(made(name))

    assert to_json(from_json(text)) == text


def test_a_surface_is_drawn_as_measured_up_to_where_it_is_cut():
    toy, drawn = made("two-weights"), figure("two-weights", "above-1")
    losses = toy.grounds[0].plane.losses
    heights = drawn.traces[0]["z"]
    top = max(max(row) for row in heights)

    assert top < float(losses.max())
    assert f"{int((losses > top).sum()):,} grid points" in drawn.caption
    for row, measured in zip(heights, losses.tolist(), strict=True):
        assert row == pytest.approx([min(loss, top) for loss in measured], rel=1e-5)


def test_every_moving_point_knows_its_step_and_the_steps_to_play_are_all_of_them():
    drawn = figure("two-weights", "above-1")
    moving = [each for each in drawn.traces if "at" in each.get("meta", {})]

    assert len(moving) == 6  # three paths and their heads
    for each in moving:
        assert len(each["meta"]["at"]) == len(each["x"]) == len(each["y"]) == len(each["text"])
    played = drawn.layout["meta"]["steps"]
    assert played == sorted({step for each in moving for step in each["meta"]["at"]})
    assert [each["meta"].get("keeps") for each in moving] == [None, 1] * 3


def test_a_path_has_one_color_in_all_figures_and_no_other_path_has_it():
    colors = [
        {
            path: named(figure("two-weights", where), path)["line"]["color"]
            for path in ("escape", "descent from the saddle", "descent from beside it")
        }
        for where in ("above-1", "course-1")
    ]

    assert colors[0] == colors[1]
    assert len(set(colors[0].values())) == 3


def test_circles_are_drawn_as_circles_and_a_stretched_picture_says_so():
    raw, standard = figure("feature-scaling", "above-1"), figure("feature-scaling", "above-2")

    assert "w₂ is drawn 40 times as large as w₁" in raw.caption
    assert "scaleanchor" not in raw.layout["yaxis"]
    assert standard.layout["yaxis"]["scaleanchor"] == "x"
    assert "times as large" not in standard.caption


def test_the_two_pieces_of_the_hyperbola_are_named_once():
    drawn = figure("two-weights", "above-1")
    pieces = [each for each in drawn.traces if each.get("name") == "minima, w₁w₂ = 1"]

    assert [each.get("showlegend", True) for each in pieces] == [True, False]


def test_the_arms_of_a_saddle_lie_along_its_eigenvectors():
    drawn = figure("two-weights", "above-1")
    down, up = named(drawn, "down, λ = −2"), named(drawn, "up, λ = 2")

    assert down["x"] == pytest.approx(down["y"])
    assert up["x"] == pytest.approx([-y for y in up["y"]])


def test_one_model_is_shown_at_a_time_and_each_button_names_one():
    drawn = figure("saddle-and-minimum", "space")
    choices = drawn.layout["meta"]["choices"]

    assert [each["name"] for each in choices] == [
        "the saddle",
        "the minimum",
        "the maximum",
        "the slope",
    ]
    shown = [drawn.traces[each["shows"][0]]["visible"] for each in choices]
    assert shown == [True, False, False, False]


def test_errors_below_what_a_logarithm_shows_leave_a_gap():
    drawn = figure("saddle-and-minimum", "errors-1")

    assert all(value is None or value > 0 for trace in drawn.traces for value in trace["y"])
    assert all(": order 3" in trace["name"] for trace in drawn.traces)


def test_a_chord_that_the_curve_exceeds_is_told_with_the_amount_and_the_other_is_not():
    under, broken = figure("convex-and-nonconvex", "cut-1"), figure("convex-and-nonconvex", "cut-2")

    assert "nowhere above it" in under.caption
    assert "exceeds it by up to 0.25, so the function is not convex" in broken.caption
    rest = broken.layout["meta"]["rest"]
    gap = named(broken, "difference")
    assert gap["y"][2 * rest : 2 * rest + 2] == pytest.approx(
        [-0.25, 0]
    )  # at rest where it is worst


def test_tables_hold_a_row_for_each_path_that_has_a_goal_and_each_check():
    toy = made("two-weights")
    steps, checks = steps_table(toy), checks_table(toy)

    assert steps.rows == (
        ("descent from the saddle", "the loss", "0.05", "—", "not in 250"),
        ("descent from beside it", "the loss", "0.05", "—", f"{toy.grounds[0].paths[-1].reached}"),
    )
    assert len(checks.rows) == len(toy.checks)
    assert steps_table(made("saddle-and-minimum")) is None


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("no chromium, which CI installs")
        pytest.skip("no chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, tmp_path):
    """Draw a toy's page; afterwards nothing may have gone wrong or out."""
    wrong, requests, contexts = [], [], []

    def opened(name, *, width=1280):
        file = tmp_path / "toy.html"
        save(made(name), file)
        context = browser.new_context(viewport={"width": width, "height": 900})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda told: wrong.append(told.text) if told.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(file.as_uri())
        page.wait_for_function(DRAWN, timeout=60_000)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []
    assert set(requests) == {(tmp_path / "toy.html").as_uri()}


def place(page):
    """Where the slider under the view from above stands."""
    return int(page.locator("figure:has(#above-1) input").input_value())


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize("name", TOYS)
def test_every_figure_of_a_toy_is_drawn_and_fits_a_phone(visit, name):
    page = visit(name, width=360)

    assert page.locator(".js-plotly-plot").count() == len(toy_figures(made(name)))
    assert page.evaluate(EMPTY) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.mark.browser
@pytest.mark.slow
def test_play_runs_all_views_from_the_start_and_pause_holds_them(visit):
    page = visit("two-weights")
    steps = figure("two-weights", "above-1").layout["meta"]["steps"]
    whole = page.evaluate(LENGTHS, "above-1")
    assert place(page) == len(steps) - 1  # at rest the paths are whole

    start = page.locator("figure:has(#above-1) .play button")
    assert start.text_content() == "Play"
    start.click()
    page.wait_for_function("document.querySelector('figure:has(#above-1) input').value < 200")
    assert start.text_content() == "Pause"
    start.click()
    page.wait_for_timeout(300)  # a frame that was under way

    held, lengths = place(page), page.evaluate(LENGTHS, "above-1")
    assert 0 <= held < len(steps) - 1
    assert lengths != whole
    assert {int(each.input_value()) for each in page.locator(".play input").all()} == {held}
    expected = [
        min(trace["meta"].get("keeps", 10**9), sum(at <= steps[held] for at in trace["meta"]["at"]))
        if "meta" in trace
        else len(trace["x"])
        for trace in figure("two-weights", "above-1").traces
    ]
    assert lengths == expected
    page.wait_for_timeout(200)
    assert place(page) == held


@pytest.mark.browser
@pytest.mark.slow
def test_the_slider_moves_the_path_that_is_drawn_by_the_keyboard_too(visit):
    page = visit("two-weights")
    drawn = "[...document.querySelectorAll('#above-1 .scatterlayer .js-line')].map(e => e.getAttribute('d')).join()"
    whole = page.evaluate(drawn)
    slider = page.locator("figure:has(#above-1) input")

    slider.focus()
    page.keyboard.press("Home")
    page.wait_for_function(f"{drawn} !== {whole!r}")
    assert page.locator("figure:has(#space) output").text_content() == "step 0"
    page.keyboard.press("ArrowRight")
    assert page.locator("figure:has(#above-1) output").text_content() == "step 1"
    page.keyboard.press("End")
    page.wait_for_function(f"{drawn} === {whole!r}")


@pytest.mark.browser
@pytest.mark.slow
def test_other_colors_keep_the_step_and_paper_shows_whole_paths_without_controls(visit):
    page = visit("two-weights")
    whole = page.evaluate(LENGTHS, "above-1")
    page.locator("figure:has(#above-1) input").fill("30")
    page.wait_for_function(f"Math.max(...({LENGTHS})('above-1').slice(-8)) < 60")
    here = page.evaluate(LENGTHS, "above-1")
    assert here != whole

    page.click("#theme")
    page.wait_for_function(f"{DRAWN} === 'dark'")
    assert page.evaluate(LENGTHS, "above-1") == here

    page.evaluate(f"""window.addEventListener('beforeprint', () => {{
        window.printed = ({LENGTHS})('above-1');
    }})""")
    assert page.pdf().startswith(b"%PDF")
    assert page.evaluate("window.printed") == whole
    page.emulate_media(media="print")
    assert not page.locator(".play").first.is_visible()


@pytest.mark.browser
@pytest.mark.slow
def test_a_button_shows_its_model_and_hides_the_others(visit):
    page = visit("saddle-and-minimum")
    choices = figure("saddle-and-minimum", "space").layout["meta"]["choices"]
    assert page.evaluate(SHOWN, "space")[1:5] == [True, False, False, False]

    page.get_by_role("button", name="the maximum").click()
    page.wait_for_function(f"({SHOWN})('space')[{choices[2]['shows'][0]}]")

    assert page.evaluate(SHOWN, "space")[1:5] == [False, False, True, False]
    pressed = page.locator(".choices [aria-pressed=true]")
    assert pressed.all_text_contents() == ["the maximum"]
    page.click("#theme")  # which draws anew
    page.wait_for_function(f"{DRAWN} === 'dark'")
    assert page.evaluate(SHOWN, "space")[1:5] == [False, False, True, False]


@pytest.mark.browser
@pytest.mark.slow
def test_the_bar_of_each_chord_moves_alone(visit):
    page = visit("convex-and-nonconvex")
    bar = "(id) => document.getElementById(id).data[2].x"
    before, other = page.evaluate(bar, "cut-1"), page.evaluate(bar, "cut-2")

    page.locator("figure:has(#cut-1) input").fill("5")
    page.wait_for_function(f"({bar})('cut-1')[0] !== {before[0]}")

    assert page.evaluate(bar, "cut-2") == other
