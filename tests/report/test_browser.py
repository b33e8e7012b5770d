"""The page as a reader gets it: drawn by a browser, in every light, on every width, on paper."""

import os
import shutil
from base64 import b64encode

import pytest

from report.examples import (
    demonstration,
    gallery,
    population,
    signal,
    swapped,
    trained,
    training,
    treated,
)
from report.landscape_examples import (
    convex,
    found,
    interpolation,
    line,
    oblique,
    overview,
    search,
    study,
    survey,
    way,
)
from unstick.report.page import LIBRARY, save

pytestmark = pytest.mark.browser

CHROMIUM = shutil.which("chromium")
SWITCHES = ["--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader"]
DRAWN = "document.documentElement.dataset.drawn"
INK = "document.querySelector('#run .xtick text').style.fill"
WATCH_PRINT = f"""window.addEventListener('beforeprint', () => {{
    const plot = document.querySelector('#run svg');
    window.printed = [document.documentElement.dataset.theme, {INK}, plot.clientWidth];
}})"""
EMPTY = """() => [...document.querySelectorAll('.plot')].filter(plot => {
    const marks = plot.querySelectorAll('.trace path, .contourlayer path, .heatmaplayer image, canvas');
    return ![...marks].some(mark => mark.getBoundingClientRect().width > 3);
}).map(plot => plot.id)"""
SHADES = """async (encoded) => {
    const image = new Image();
    image.src = 'data:image/png;base64,' + encoded;
    await image.decode();
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [image.width, image.height];
    const context = canvas.getContext('2d', {willReadFrequently: true});
    context.drawImage(image, 0, 0);
    const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
    const blue = new Set();
    for (let at = 0; at < pixels.length; at += 4) {
        if (pixels[at + 2] > pixels[at] + 40) {
            blue.add(pixels[at] << 16 | pixels[at + 1] << 8 | pixels[at + 2]);
        }
    }
    return blue.size;
}"""


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    save(demonstration(), path)
    return path


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
def visit(browser, page_file):
    """Open the page; afterwards nothing may have gone wrong or out."""
    wrong, requests, contexts, files = [], [], [], set()

    def opened(file=page_file, *, width=1280, scheme="light", javascript=True, beside=()):
        files.update({file.as_uri(), *((file.parent / name).as_uri() for name in beside)})
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            java_script_enabled=javascript,
        )
        contexts.append(context)
        page = context.new_page()
        page.on(
            "console",
            lambda message: wrong.append(message.text) if message.type == "error" else None,
        )
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(file.as_uri())
        if javascript:
            page.wait_for_function(DRAWN, timeout=30_000)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []
    assert set(requests) == files


def assert_drawn(page):
    """Every figure holds marks, and the surface has the shades that light gives it."""
    picture = page.locator("#surface").screenshot()

    assert page.locator(".js-plotly-plot").count() == 12
    assert page.evaluate(EMPTY) == []
    assert page.evaluate(SHADES, b64encode(picture).decode()) > 200


def test_pages_of_a_folder_share_the_library(visit, tmp_path):
    for name in ("one", "two"):
        save(study(), tmp_path / f"{name}.html", shared=True)
    page = visit(tmp_path / "one.html", beside=(LIBRARY,))

    assert page.evaluate(EMPTY) == []
    assert page.locator("#missing").is_hidden()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one.html", LIBRARY, "two.html"]


def test_a_page_without_its_library_says_so(browser, tmp_path):
    save(study(), tmp_path / "alone.html", shared=True)
    (tmp_path / LIBRARY).unlink()
    page = browser.new_page()
    page.goto((tmp_path / "alone.html").as_uri())

    assert LIBRARY in page.locator("#missing").inner_text()
    page.close()


@pytest.mark.parametrize("width", [1280, 360])
def test_every_figure_is_drawn_and_nothing_is_wider_than_the_screen(visit, width):
    page = visit(width=width)

    assert_drawn(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize(
    "told",
    [
        trained(),
        training([2.5]),
        population(),
        swapped(),
        signal(),
        gallery(),
        treated(),
        line(),
        oblique(),
        interpolation(),
        survey(),
        convex(),
        found(),
        search(),
        way(),
        study(),
        overview(),
    ],
    ids=lambda record: type(record).__name__,
)
def test_every_figure_of_a_record_is_drawn_and_fits_the_screen(visit, tmp_path, told, width):
    save(told, tmp_path / "report.html")

    page = visit(tmp_path / "report.html", width=width)

    assert page.locator(".js-plotly-plot").count() == page.locator(".plot").count() > 0
    assert page.evaluate(EMPTY) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_button_shows_the_same_function_written_with_another_factor(visit, tmp_path):
    save(survey(), tmp_path / "report.html")
    page = visit(tmp_path / "report.html")
    shown = "document.getElementById('rescaled-plain').data.map(trace => trace.visible !== false)"
    first = page.evaluate(shown)

    page.locator("figure", has=page.locator("#rescaled-plain")).get_by_role("button").nth(2).click()
    page.wait_for_function(f"JSON.stringify({shown}) !== '{str(first).lower().replace(' ', '')}'")

    assert first == [True, False, False]
    assert page.evaluate(shown) == [False, False, True]


def test_colors_follow_the_system_and_the_button_and_paper_is_light(visit):
    page = visit(scheme="dark")
    assert_drawn(page)
    dark = page.evaluate(INK)

    page.click("#theme")
    page.wait_for_function(f"{DRAWN} === 'light'")
    light = page.evaluate(INK)
    page.click("#theme")
    page.wait_for_function(f"{DRAWN} === 'dark'")
    assert page.evaluate(INK) == dark != light

    page.evaluate(WATCH_PRINT)
    printed = page.pdf(format="A4")
    assert printed.startswith(b"%PDF")
    assert page.evaluate("window.printed") == ["light", light, 660]
    page.wait_for_function(f"{DRAWN} === 'dark'")


def test_the_code_of_a_remedy_is_copied_by_the_keyboard(visit, tmp_path):
    save(treated(), tmp_path / "report.html")
    page = visit(tmp_path / "report.html", width=360)
    page.evaluate("""() => {
        navigator.clipboard.writeText = (text) => { window.kept = text; return Promise.resolve(); };
    }""")

    page.locator("#copy").focus()
    page.keyboard.press("Enter")

    page.wait_for_function("document.getElementById('copied').textContent === 'Copied'")
    assert page.evaluate("window.kept") == treated().trials[0].code


def test_without_a_clipboard_the_code_is_selected_instead(visit, tmp_path):
    save(treated(), tmp_path / "report.html")
    page = visit(tmp_path / "report.html")
    page.evaluate(
        "() => { navigator.clipboard.writeText = () => Promise.reject(new Error('no')); }"
    )

    page.click("#copy")

    page.wait_for_function("document.getElementById('copied').textContent === 'Selected'")
    assert page.evaluate("window.getSelection().toString()") == treated().trials[0].code


def test_without_javascript_the_page_says_so_and_keeps_its_numbers(visit):
    page = visit(javascript=False)

    assert "The figures need JavaScript" in page.locator("noscript").text_content()
    assert page.get_by_text("All the numbers").is_visible()
