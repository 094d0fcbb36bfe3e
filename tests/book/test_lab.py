"""The chapters in a real JupyterLab, as a reader runs them: `make test-lab`.

They use synthetic ratings. Run one chapter alone with `-k 01_data`.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest
from playwright.sync_api import expect

from built import HTML, ROOT, each_notebook

pytestmark = pytest.mark.lab

LONGEST = 300_000  # milliseconds that a chapter may take
ALL_CELLS = {"windowingMode": "none"}  # otherwise the page holds only the visible cells
SCREENSHOTS = HTML.parent / "screenshots"
DIRECTIVE = re.compile(r"```\{|:::|\{[a-z:]+\}`|<details>")


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """The address of a JupyterLab with a copy of the chapters."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "chapters", folder / "chapters")
    settings = folder / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    (settings / "tracker.jupyterlab-settings").write_text(json.dumps(ALL_CELLS))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--config={ROOT / 'tools' / 'lab' / 'jupyter_lab_config.py'}"]
    command += [f"--ServerApp.root_dir={folder / 'chapters'}"]
    command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    command += ["--IdentityProvider.token="]  # no password
    command += [f"--LabApp.user_settings_dir={folder / 'settings'}"]
    command += [f"--LabApp.workspaces_dir={folder / 'workspaces'}"]
    environment = os.environ | {
        "IPYTHONDIR": str(ROOT / "tools" / "ipython"),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "MEMEMBED_DATASET": "synthetic:130000",
        "PYTHONPATH": str(ROOT),
    }
    environment.pop("MEMEMBED_DATA_DIR", None)
    log = folder / "log"
    with log.open("w") as file:
        server = subprocess.Popen(
            command, env=environment, stdout=file, stderr=subprocess.STDOUT
        )
    address = f"http://127.0.0.1:{port}"
    for _ in range(120):
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"{address}/api/status", timeout=5).close()
            break
        except OSError:
            time.sleep(0.5)
    else:
        pytest.fail(f"JupyterLab does not answer:\n{log.read_text()}")
    yield address
    server.terminate()
    server.wait(timeout=60)


def test_opens_on_a_landing_page_that_leads_to_the_chapters(lab, tab):
    tab.goto(lab)
    page = tab.locator(".jp-RenderedMarkdown")
    title = "Memory-efficient embeddings"
    expect(page.locator("h1")).to_contain_text(title, timeout=60_000)
    assert not DIRECTIVE.search(page.inner_text())
    expect(page.locator("img")).to_have_count(2)
    for picture in page.locator("img").all():
        assert picture.evaluate("image => image.decode().then(() => true)")
    page.get_by_role("link", name="1 The data").click()
    heading = tab.locator(".jp-Notebook h1")
    expect(heading).to_contain_text("The data", timeout=60_000)


@each_notebook
def test_runs_from_the_first_cell_to_the_last(page, lab, tab):
    name = page.rpartition("/")[2]
    tab.goto(f"{lab}/lab/tree/{name}.ipynb?reset")
    notebook = tab.locator(".jp-Notebook")
    idle = tab.get_by_text("| Idle")  # in the status bar, once there is a kernel
    expect(idle).to_have_count(1, timeout=60_000)
    tab.get_by_role("menuitem", name="Run", exact=True).click()
    tab.get_by_role("menuitem", name="Run All Cells", exact=True).click()

    prompts = notebook.locator(".jp-CodeCell .jp-InputPrompt")
    expect(prompts.first).to_have_text("[1]:", timeout=LONGEST)
    expect(prompts.filter(has_text="*")).to_have_count(0, timeout=LONGEST)
    expect(idle).to_have_count(1, timeout=LONGEST)
    cells = nbformat.read(ROOT / f"{page}.ipynb", as_version=4).cells
    cells = [cell for cell in cells if cell.cell_type == "code"]
    folded = [cell.metadata.get("jupyter") == {"source_hidden": True} for cell in cells]
    expected = ["" if fold else f"[{i}]:" for i, fold in enumerate(folded, 1)]
    assert prompts.all_inner_texts() == expected

    if any("compress_and_train(" in cell.source for cell in cells):  # shows progress
        expect(notebook.get_by_text("Choosing bits").first).to_be_attached()
    complaints = "[data-mime-type$='.error'], [data-mime-type$='.stderr']"
    assert notebook.locator(complaints).all_inner_texts() == []
    for text in notebook.locator(".jp-RenderedMarkdown").all_inner_texts():
        assert not DIRECTIVE.search(text)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    tab.screenshot(path=SCREENSHOTS / f"lab_{name}.jpeg", quality=70)
