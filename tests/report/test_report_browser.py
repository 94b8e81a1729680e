"""The page in Debian's Chromium: silent, deaf to the network, accessible, and fit for paper.

Run by ``make test-browser``; needs ``apt-get install chromium``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from deltavc.report.render import SECTIONS, render
from deltavc.report.texts import LANGUAGES

pytestmark = pytest.mark.browser

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    """One browser for all tests of this module."""
    from playwright.sync_api import sync_playwright

    if not CHROMIUM.exists():
        pytest.fail(f"{CHROMIUM} is not there; install it: apt-get install -y chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory, report):
    """The page in each language."""
    folder = tmp_path_factory.mktemp("pages")
    for language in LANGUAGES:
        (folder / f"{language}.html").write_text(render(report, language=language))
    return folder


@pytest.fixture
def opened(browser, files):
    """Opens a page and notes what it asks for and complains of."""
    contexts = []

    def open_(language="en", **options):
        context = browser.new_context(viewport={"width": 1200, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.noise, page.asked = [], []
        page.on("console", lambda message: page.noise.append(message.text))
        page.on("pageerror", lambda error: page.noise.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto((files / f"{language}.html").as_uri(), wait_until="load")
        return page

    yield open_
    for context in contexts:
        context.close()


@pytest.mark.parametrize("language", LANGUAGES)
def test_page_is_silent_and_asks_for_nothing(opened, files, language):
    page = opened(language)
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
    page.wait_for_timeout(300)
    assert page.noise == []
    assert page.asked == [(files / f"{language}.html").as_uri()]
    assert page.title()


def test_page_needs_no_script(opened):
    page = opened(java_script_enabled=False)
    assert page.locator("h2").count() == len(SECTIONS)


def test_policy_would_stop_a_script(opened):
    page = opened()
    page.evaluate(
        "() => { const s = document.createElement('script'); s.text = 'window.ran = true';"
        " document.body.append(s); }"
    )
    assert page.evaluate("window.ran") is None
    assert any("Content Security Policy" in text for text in page.noise)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_axe_finds_nothing(opened, language, scheme):
    from axe_playwright_python.sync_playwright import Axe

    page = opened(language, color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
    found = Axe().run(page).response["violations"]
    told = [(f["id"], f["impact"], [n["target"] for n in f["nodes"]][:3]) for f in found]
    assert told == []


def test_axe_would_find_something(opened):
    from axe_playwright_python.sync_playwright import Axe

    page = opened()
    page.evaluate("document.documentElement.removeAttribute('lang')")
    assert [f["id"] for f in Axe().run(page).response["violations"]] == ["html-has-lang"]


def test_keyboard_goes_through_the_page_in_order(opened):
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page = opened()
    page.keyboard.press("Tab")
    links = []
    for _ in SECTIONS:
        page.keyboard.press("Tab")
        links.append(page.evaluate("document.activeElement.getAttribute('href')"))
    assert links == [f"#{name}" for name in SECTIONS]
    places = []
    for _ in range(40):
        page.keyboard.press("Tab")
        places.append(
            page.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)")
        )
    assert places == sorted(set(places))
    assert page.locator("[tabindex]:not([tabindex='0']):not([tabindex='-1'])").count() == 0


def test_keyboard_unfolds_and_focus_is_seen(opened):
    page = opened()
    summary = page.locator("#deployments summary").first
    summary.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    outline = summary.evaluate("e => getComputedStyle(e).outlineStyle")
    assert outline == "solid"
    inside = page.locator("#deployments details").first
    before = inside.evaluate("e => e.open")
    page.keyboard.press("Enter")
    assert inside.evaluate("e => e.open") is not before


@pytest.mark.parametrize("width", [320, 390, 768, 1200])
def test_nothing_sticks_out_on_a_narrow_screen(opened, width):
    page = opened()
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_paper_has_everything(opened, tmp_path):
    page = opened()
    page.emulate_media(media="print")
    hidden = page.evaluate(
        "[...document.querySelectorAll('details > :not(summary)')]"
        ".filter(e => e.getBoundingClientRect().height === 0).length"
    )
    assert hidden == 0
    assert not page.locator("nav").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    pdf = page.pdf(prefer_css_page_size=True)
    assert 3 < len(re.findall(rb"/Type\s*/Page\b", pdf)) < 40
    box = re.search(rb"/MediaBox\s*\[\s*0 0 ([\d.]+) ([\d.]+)", pdf)
    assert [round(float(side)) for side in box.groups()] == [595, 842]  # A4 in points


def test_dark_pages_are_dark(opened):
    page = opened(color_scheme="dark")
    red, green, blue = map(
        int,
        re.findall(
            r"\d+",
            page.evaluate("getComputedStyle(document.querySelector('section')).backgroundColor"),
        )[:3],
    )
    assert max(red, green, blue) < 60
    chart = page.locator("svg.chart text").first
    assert chart.evaluate("e => getComputedStyle(e).fill") == "rgb(163, 176, 189)"


def test_names_of_other_scripts_keep_their_direction(opened):
    page = opened()
    name = page.locator("bdi", has_text="\u0645\u062d\u0645\u062f").first
    assert name.evaluate("e => getComputedStyle(e).unicodeBidi") == "isolate"
