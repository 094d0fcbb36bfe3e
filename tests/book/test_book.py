"""Checks of the built book: run `make book`, then `make test-book`."""

import json
import os
import re
from functools import cache
from urllib.parse import unquote

import pytest
from bs4 import BeautifulSoup

import repository
from built import CONTENTS, HTML, ROOT, each_notebook, each_page

pytestmark = pytest.mark.book

ADDRESS = os.environ.get("GITHUB_REPOSITORY") or "/".join(repository.configured(ROOT))


@cache
def read(file):
    assert file.exists(), f"{file} does not exist: run `make book` first"
    return BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser")


def article(page):
    """The part of a page that its author wrote."""
    return read(HTML / f"{page}.html").select_one("article")


def dead_links(file):
    """Links, images and scripts of a page whose file or anchor does not exist."""
    dead = []
    for tag in read(file).select("[href], [src]"):
        link = tag.get("href") or tag.get("src")
        if re.match(r"[a-z]+:|//", link):
            continue
        path, _, place = unquote(link).partition("#")
        target = (file.parent / path.partition("?")[0]).resolve() if path else file
        if not target.is_file() or (
            place and target.suffix == ".html" and not read(target).find(id=place)
        ):
            dead.append(link)
    return dead


def poor_images(soup):
    """Images whose alt text is missing or is only a file name."""
    return [
        image.get("src")
        for image in soup.select("img")
        if len(image.get("alt", "").split()) < 2
    ]


def unrendered(soup):
    """Markup, outside code and formulas, that was not rendered."""
    soup = BeautifulSoup(str(soup), "html.parser")
    for tag in soup.select("pre, code, .math"):
        tag.decompose()
    return re.findall(
        r"\{(?:cite|doc|eq|math|numref|ref|term)[\w:]*\}|^:::.*|```|\[\?\]|(?<!\d)\*\*[^*\n]+\*\*",
        soup.get_text(),
        re.MULTILINE,
    )


@each_page
def test_links_have_targets(page):
    assert dead_links(HTML / f"{page}.html") == []


@each_page
def test_images_have_alt_text(page):
    assert poor_images(article(page)) == []


@each_page
def test_everything_is_rendered(page):
    assert unrendered(article(page)) == []
    assert article(page).select(".problematic, .system-message") == []


@each_page
def test_one_title(page):
    assert len(article(page).select("h1")) == 1


@each_page
def test_previews_have_a_description_and_a_picture(page):
    head = read(HTML / f"{page}.html").head
    held = {tag.get("property") or tag.get("name"): tag for tag in head.select("meta")}
    for name in ("description", "og:description"):
        assert len(held[name]["content"]) > 80
    picture = held["og:image"]["content"].partition("/_images/")[2]
    assert (HTML / "_images" / picture).is_file()


@each_notebook
def test_no_error_and_no_stderr_in_outputs(page):
    assert article(page).select(".output.stderr, .output.traceback") == []
    outputs = " ".join(tag.get_text() for tag in article(page).select(".output"))
    assert "Traceback (most recent call last)" not in outputs


@each_notebook
def test_figures_are_all_shown_once_and_numbered(page):
    figures = article(page).select(".cell_output img")
    notebook = json.loads((ROOT / f"{page}.ipynb").read_text(encoding="utf-8"))
    pictures = [cell["metadata"].get("mystnb", {}) for cell in notebook["cells"]]
    expected = [picture["image"]["alt"] for picture in pictures if "image" in picture]
    assert [figure["alt"] for figure in figures] == expected
    assert [
        figure["src"] for figure in figures if not figure.find_parent("figure")
    ] == []


@each_notebook
def test_button_launches_this_chapter_on_colab(page):
    expected = (
        f"https://colab.research.google.com/github/{ADDRESS}/blob/main/{page}.ipynb"
    )
    links = read(HTML / f"{page}.html").select("a[href*='colab.research.google.com']")
    assert expected in [link["href"] for link in links]


def test_the_book_opens_at_its_first_page():
    refresh = read(HTML / "index.html").select_one("meta[http-equiv=Refresh]")
    assert CONTENTS["root"] in refresh["content"]


def test_the_checks_find_problems(tmp_path):
    file = tmp_path / "page.html"
    file.write_text(
        "<h1 id=top>A {cite}<code>x</code> **kwargs</h1>"
        "<a href='#top'></a><a href='#nowhere'></a><a href='gone.html'></a>"
        "<img src='https://example.org/a.png' alt='a.png'>"
    )
    soup = read(file)
    assert dead_links(file) == ["#nowhere", "gone.html"]
    assert poor_images(soup) == ["https://example.org/a.png"]
    assert unrendered(soup) == ["{cite}"]
