"""The folder of the built book, and its pages."""

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "_build" / "html"

CONTENTS = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
PAGES = [CONTENTS["root"]] + [
    chapter["file"] for part in CONTENTS["parts"] for chapter in part["chapters"]
]
NOTEBOOKS = [page for page in PAGES if (ROOT / f"{page}.ipynb").exists()]

each_page = pytest.mark.parametrize("page", PAGES)
each_notebook = pytest.mark.parametrize("page", NOTEBOOKS)
