"""The built book in a browser: run `make book`, then `make test-book`.

Screenshots are written to _build/screenshots; index.html there shows all of them.
"""

import io
import itertools
import json

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect

from built import HTML, PAGES, each_notebook

pytestmark = pytest.mark.book

SCREENSHOTS = HTML.parent / "screenshots"
WIDTHS = [360, 768, 1024, 1440]
GENERATED = ["search", "genindex", "py-modindex"]
each_page = pytest.mark.parametrize("page", [*PAGES, *GENERATED])

TALLEST = 12_000  # pixels of a screenshot: a browser draws at most 16,384
COLOURS_OF = {"chapters/api": "#layers"}  # one of many sections that look alike

# Elements that stick out of the window and are in no element that scrolls on its own.
STICKING_OUT = """
width => [...document.querySelectorAll('body *')].filter(element => {
    const box = element.getBoundingClientRect();
    if (box.width == 0 || box.left >= width || box.right <= width + 1) return false;
    for (let outer = element; outer != document.body; outer = outer.parentElement)
        if (getComputedStyle(outer).overflowX != 'visible') return false;
    return true;
}).map(element => element.outerHTML.slice(0, 120))
"""


def violations(tab, part="html", **options):
    """Accessibility problems that axe rates as serious or critical."""
    found = Axe().run(tab, part, {"resultTypes": ["violations"], **options})
    return [
        (violation["id"], node["target"], node["failureSummary"])
        for violation in found.response["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


def contrast(pixels):
    """The contrast ratio of WCAG 2 between the darkest and the brightest pixels."""
    linear = (pixels / 255.0) ** 2.2
    low, high = np.quantile(linear @ [0.2126, 0.7152, 0.0722], [0.005, 0.995])
    return (high + 0.05) / (low + 0.05)


def pixels(screenshot):
    return np.asarray(Image.open(io.BytesIO(screenshot)).convert("RGB"))


def is_at(page):
    """A function that says whether an address is that of the page."""
    return lambda url: url.partition("#")[0].partition("?")[0].endswith(f"{page}.html")


@each_page
def test_loads_without_errors_or_requests_to_other_servers(page, tab, visit, problems):
    visit(page)
    tab.wait_for_load_state("networkidle")
    assert problems == []
    expect(tab.locator("mjx-merror")).to_have_count(0)
    expect(tab.locator("span.math:not(:has(mjx-container))")).to_have_count(0)


def test_errors_and_other_requests_are_found(tab, address, problems):
    tab.goto(f"{address}/search.html")
    tab.set_content(
        "<img src='http://localhost:1/a.png'><img src='/missing.png'>"
        "<script>console.warn('careful'); throw new Error('no')</script>"
    )
    tab.wait_for_load_state("networkidle")
    text = "\n".join(problems)
    for part in ["careful", "error: no", "elsewhere: http://localhost:1", "404"]:
        assert part in text


@each_page
def test_does_not_scroll_sideways(page, tab, visit):
    visit(page)
    tab.evaluate(
        "for (const each of document.querySelectorAll('details')) each.open = 1"
    )
    for width in WIDTHS:
        tab.set_viewport_size({"width": width, "height": 900})
        assert (width, tab.evaluate(STICKING_OUT, width)) == (width, [])
        assert tab.evaluate("document.documentElement.scrollWidth") == width


def test_elements_that_stick_out_are_found(tab):
    tab.set_content(
        "<div style='overflow: auto'><p style='width: 3000px'>scrolls</p></div>"
        "<p style='width: 2000px'>sticks out</p>"
    )
    (found,) = tab.evaluate(STICKING_OUT, 1440)
    assert "sticks out" in found


@each_notebook
def test_folded_code_and_solutions_open(page, tab, visit):
    visit(page)
    folded = tab.locator("article details")
    for i in range(folded.count()):
        details = folded.nth(i)
        summary = details.locator("summary").first
        inside = details.locator(":scope > :not(summary)").locator("visible=true")
        expect(inside).to_have_count(0)
        if i:
            summary.click()
        else:
            summary.press("Enter")
        expect(inside.first).to_be_visible()
    assert folded.count() > 1  # an exercise's solution at least, and its answer


@each_notebook
def test_figures_show_and_have_dark_text_in_both_themes(page, tab, visit):
    visit(page)
    figures = tab.locator("article .cell_output img, article figure img")
    for theme in ("light", "dark"):
        tab.emulate_media(color_scheme=theme)
        expect(tab.locator("html")).to_have_attribute("data-theme", theme)
        for figure in figures.all():
            figure.scroll_into_view_if_needed()
            assert figure.evaluate("image => image.decode().then(() => true)")
            assert len(figure.get_attribute("alt").split()) > 1
            assert contrast(pixels(figure.screenshot())) > 4.5


def test_poor_contrast_is_found():
    grey, white = np.full((10, 10, 3), 150), np.full((10, 10, 3), 255)
    assert contrast(np.stack([grey, white])) < 4
    assert contrast(np.stack([0 * grey, white])) == pytest.approx(21)


def test_the_theme_switches_and_is_remembered(tab, visit):
    tab.emulate_media(color_scheme="dark")
    visit(PAGES[0])
    page, switch = tab.locator("html"), tab.locator("button.theme-switch-button")
    seen = []
    for _ in range(3):
        seen.append((page.get_attribute("data-mode"), page.get_attribute("data-theme")))
        switch.click()
    assert set(seen) == {("auto", "dark"), ("light", "light"), ("dark", "dark")}
    while page.get_attribute("data-mode") != "light":
        switch.click()
    visit(PAGES[1])
    expect(page).to_have_attribute("data-theme", "light")
    background = "getComputedStyle(document.body).backgroundColor"
    assert tab.evaluate(background) == "rgb(255, 255, 255)"


def test_search_finds_pages_and_says_when_it_finds_none(tab, visit):
    visit(PAGES[0])
    tab.keyboard.press("Control+K")
    tab.keyboard.type("quotient")
    tab.keyboard.press("Enter")
    found = tab.locator("#search-results ul.search li")
    expect(found.first).to_be_visible()
    expect(found.filter(has_text="Quotient-remainder embeddings")).not_to_have_count(0)
    found.locator("a").first.click()
    expect(tab.locator("article")).to_contain_text("quotient")

    visit("search")
    tab.locator("#search-input, input[name=q]").locator("visible=true").first.fill(
        "xyzzy"
    )
    tab.keyboard.press("Enter")
    expect(tab.locator("#search-results")).to_contain_text("did not match")


def test_next_and_previous_lead_through_the_book(tab, visit):
    visit(PAGES[0])
    following, preceding = tab.locator("a.right-next"), tab.locator("a.left-prev")
    expect(preceding).to_have_count(0)
    for before, page in itertools.pairwise(PAGES):
        following.click()
        tab.wait_for_url(is_at(page))
        assert is_at(before)(preceding.evaluate("link => link.href"))
    expect(following).to_have_count(0)
    preceding.click()
    tab.wait_for_url(is_at(PAGES[-2]))


@pytest.mark.parametrize("width", [360, 1440])
def test_the_sidebar_leads_to_every_page(width, tab, visit):
    tab.set_viewport_size({"width": width, "height": 900})
    visit(PAGES[1])
    links = tab.locator("nav.bd-links a.reference.internal")
    leading_to = links.evaluate_all("links => links.map(link => link.href)")
    for page, link in zip(PAGES, leading_to, strict=True):
        assert is_at(page)(link) or (page == PAGES[1] and link.endswith("#"))
    if width < 960:
        tab.locator("button.primary-toggle").click()
    links.last.click()
    tab.wait_for_url(is_at(PAGES[-1]))


def test_keyboard_alone_reaches_the_content(tab, visit):
    visit(PAGES[1])
    focused = tab.locator(":focus")
    tab.keyboard.press("Tab")
    expect(focused).to_have_text("Skip to main content")
    expect(focused).to_be_in_viewport()
    tab.keyboard.press("Enter")
    for _ in range(12):  # the buttons above the article
        tab.keyboard.press("Tab")
        expect(focused).to_be_in_viewport()
        expect(focused).to_have_css("outline-style", "solid")
        expect(focused).to_have_css("opacity", "1")
        if tab.locator("article :focus").count():
            break
    expect(tab.locator("article :focus")).to_have_count(1)


@each_notebook
def test_the_notebook_can_be_launched_and_downloaded(page, tab, visit):
    visit(page)
    tab.locator(".dropdown-launch-buttons > button").click()
    expect(tab.locator("a[href*='colab.research.google.com']").first).to_be_visible()
    tab.locator(".dropdown-source-buttons > button").click()
    expect(tab.locator("a.btn-source-edit-button")).to_be_visible()
    tab.locator(".dropdown-download-buttons > button").click()
    with tab.expect_download() as download:
        tab.locator("a.btn-download-source-button").click()
    assert download.value.suggested_filename == f"{page.partition('/')[2]}.ipynb"
    assert json.loads(download.value.path().read_text("utf-8"))["cells"]


@pytest.fixture(scope="module")
def screenshots():
    """The folder of the screenshots; at the end, it gets a page that shows them all."""
    SCREENSHOTS.mkdir(exist_ok=True)
    yield SCREENSHOTS
    sheet = "<title>The book</title><style>img {width: 100%}</style>"
    sheet += "<style>div {display: inline-block; vertical-align: top; width: 24%;"
    sheet += "height: 40em; overflow: auto}</style>"
    for page in [*PAGES, *GENERATED]:
        sheet += f"<h2>{page}</h2>"
        for file in sorted(SCREENSHOTS.glob(f"{page.replace('/', '-')}_*.jpeg")):
            sheet += f"<div><a href={file.name}><img src={file.name}></a></div> "
    (SCREENSHOTS / "index.html").write_text(sheet)


@each_page
def test_axe_finds_nothing_serious(page, tab, visit, screenshots):
    visit(page)
    tab.add_style_tag(content="* {transition: none !important}")  # no half-way colours

    def show(theme, width):
        tab.emulate_media(color_scheme=theme)
        expect(tab.locator("html")).to_have_attribute("data-theme", theme)
        tab.set_viewport_size({"width": width, "height": 900})
        file = screenshots / f"{page.replace('/', '-')}_{theme}_{width}.jpeg"
        height = tab.evaluate("document.documentElement.scrollHeight")
        clip = {"x": 0, "y": 0, "width": width, "height": min(height, TALLEST)}
        tab.screenshot(path=file, full_page=True, clip=clip, quality=70)

    # Colours take most of the time, and depend on the theme, not on the width.
    colours = "color-contrast"
    part = COLOURS_OF.get(page, "html")
    found = []
    show("dark", 1440)
    found += violations(tab, part, runOnly=[colours])
    show("light", 1440)
    found += violations(tab, part, runOnly=[colours])
    found += violations(tab, rules={colours: {"enabled": False}})
    show("dark", 360)
    show("light", 360)
    found += violations(tab, rules={colours: {"enabled": False}})
    assert found == []


def test_axe_finds_bad_contrast_and_missing_alt_text(tab):
    tab.set_content("<p style='color: #ccc'>pale</p><img src='data:,'>")
    assert {"color-contrast", "image-alt"} <= {each[0] for each in violations(tab)}
