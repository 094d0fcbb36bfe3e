"""Write copies of the chapters that end with the solutions of their exercises.

    python tools/solutions.py FOLDER

A solution is the Python code between `<details>` and `</details>`.
"""

import re
import sys
from pathlib import Path

import nbformat

DETAILS = re.compile(r"<details>(.*?)</details>", re.DOTALL)
CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)
CHAPTERS = Path(__file__).parents[1] / "chapters"


def main(folder):
    """Write a copy of every chapter, with its solutions, to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(CHAPTERS.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        solutions = [
            nbformat.v4.new_code_cell(code)
            for cell in notebook.cells
            if cell.cell_type == "markdown"
            for details in DETAILS.findall(cell.source)
            for code in CODE.findall(details)
        ]
        if not solutions:  # otherwise a chapter without solutions would pass unnoticed
            raise SystemExit(f"{path.name} has no solution in Python")
        notebook.cells += solutions
        nbformat.write(notebook, folder / path.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
