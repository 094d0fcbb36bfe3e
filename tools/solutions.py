"""Write the chapters anew, with the solutions of their exercises as cells at the end.

    python tools/solutions.py FOLDER

A solution is the Python code between `<details>` and `</details>`.
"""

import re
import sys
from pathlib import Path

import nbformat

CHAPTERS = Path(__file__).parents[1] / "chapters"


def main(folder):
    """Write every chapter to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(CHAPTERS.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        texts = [c.source for c in notebook.cells if c.cell_type == "markdown"]
        notebook.cells += [
            nbformat.v4.new_code_cell(code)
            for text in texts
            for details in re.findall(r"<details>(.*?)</details>", text, re.DOTALL)
            for code in re.findall(r"```python\n(.*?)```", details, re.DOTALL)
        ]
        nbformat.write(notebook, folder / path.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
