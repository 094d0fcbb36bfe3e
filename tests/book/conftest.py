"""A server of the built pages, and a browser to read them with."""

import functools
import http.server
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from built import HTML

SYSTEM_BROWSERS = ["chromium", "chromium-browser", "google-chrome"]


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        """Do not log requests."""


@pytest.fixture(scope="session")
def address():
    """The address at which the built book is served."""
    assert (HTML / "index.html").exists(), "the book is not built: run `make book`"
    handler = functools.partial(Handler, directory=HTML)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def browser():
    """The browser of this machine, or else Playwright's own, downloaded once."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium
        found = next(filter(None, map(shutil.which, SYSTEM_BROWSERS)), None)
        if not found and not Path(chromium.executable_path).exists():
            download()
        browser = chromium.launch(executable_path=found)
        yield browser
        browser.close()


def download():
    command = [sys.executable, "-m", "playwright", "install", "chromium"]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=300)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        names = ", ".join(SYSTEM_BROWSERS)
        pytest.skip(
            f"no browser: none of {names} is installed, and Playwright's own "
            "could not be downloaded"
        )


@pytest.fixture
def tab(browser):
    """An empty tab, without cookies or storage."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    yield context.new_page()
    context.close()


@pytest.fixture
def problems(tab, address):
    """The errors and warnings of a tab, and its requests to other servers."""
    found = []

    def add(kind, text):
        found.append(f"{kind}: {text}")

    def console(message):
        if message.type in ("error", "warning"):
            add(message.type, message.text)

    def request(request):
        if not request.url.startswith((address, "data:", "blob:")):
            add("elsewhere", request.url)

    tab.on("pageerror", lambda error: add("error", error))
    tab.on("console", console)
    tab.on("request", request)
    return found


@pytest.fixture
def visit(tab, address):
    """A function that opens a page and waits until its formulas are drawn."""

    def visit(page):
        tab.goto(f"{address}/{page}.html")
        tab.evaluate("() => window.MathJax?.startup?.promise.then(() => null)")

    return visit
