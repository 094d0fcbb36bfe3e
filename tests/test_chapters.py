"""Rules for chapters, checked without running them.

Each rule is a function from a notebook to a list of complaints. The chapters must cause
none. Further down, notebooks that break one rule must cause complaints of that rule
only.
"""

import copy
import re
import statistics
from pathlib import Path

import nbformat
import pytest
import yaml
from jupyter_cache import get_cache
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import repository
import run_chapters

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "chapters").glob("*.ipynb"))
PAGES = sorted((ROOT / "chapters").glob("*.md"))
ADDRESS = "/".join(repository.configured(ROOT))

BADGE = (
    "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/{address}/blob/main/chapters/{name})"
)
BOOTSTRAP = """\
try:
    import memembed
except ImportError:  # on Colab, which opens the notebook alone
    %pip install -q "memembed[chapters] @ git+https://github.com/{address}"
"""
MAX_CELL, MAX_MEDIAN_CELL = 15, 6
MAX_LINE = 79  # wider code is cut off at the edge of the page
MIN_EXERCISES = 3
SOLUTION = r"<details>\n<summary>Solution</summary>\n\n(.*?)</details>"


def cells(notebook, kind):
    """Return the cells of a kind that a reader of the book sees."""
    return [
        cell
        for cell in notebook.cells
        if cell.cell_type == kind and not is_removed(cell)
    ]


def is_removed(cell):
    return "remove-cell" in cell.metadata.get("tags", [])


def is_folded(cell):
    """Return whether the book and JupyterLab hide a code cell's source at first."""
    tags, jupyter = (cell.metadata.get(name, {}) for name in ("tags", "jupyter"))
    return "hide-input" in tags and jupyter.get("source_hidden", False)


def first_line(cell):
    return cell.source.strip().split("\n")[0]


def without_code(text):
    """Return Markdown without its fenced blocks and code spans."""
    text = re.sub(r"^```(?!\{).*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"(?<![`}])`[^`\n]+`", "", text)


def malformed(notebook, path):
    ids = [cell.get("id") for cell in notebook.cells]
    if None in ids or len(set(ids)) < len(ids):
        return ["each cell needs its own id"]
    found = []
    try:
        nbformat.validate(notebook)
    except nbformat.ValidationError as problem:
        found.append(f"not a valid notebook: {problem.message}")
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        found.append("the kernel must be named python3")
    return found


def stored_outputs(notebook, path):
    return [
        f"holds outputs or a count: {first_line(cell)}"
        for cell in notebook.cells
        if cell.cell_type == "code" and (cell.outputs or cell.execution_count)
    ]


def undescribed_figures(notebook, path):
    found = []
    for cell in cells(notebook, "code"):
        if re.search(r"^from memembed\.plotting import", cell.source, re.MULTILINE):
            found.append("write `from memembed import plotting`, so that this sees it")
        if not re.search(r"\b(plotting|plt)\.(?!table\b)\w+\(", cell.source):
            continue
        settings = cell.metadata.get("mystnb", {})
        alt = settings.get("image", {}).get("alt", "")
        if len(alt.split()) < 4:
            found.append(f"no descriptive mystnb.image.alt: {first_line(cell)}")
        if not settings.get("figure", {}).get("caption"):
            found.append(f"no mystnb.figure.caption: {first_line(cell)}")
    return found


def myst_syntax(notebook, path):
    """Find syntax that GitHub, Colab and JupyterLab show as plain text."""
    syntax = r"^```\{.*|^:::.*|^\(\S+\)=$|\{[a-z][\w:-]*\}`[^`]*`"
    return [
        f"not CommonMark: {match[0]}"
        for cell in notebook.cells
        if cell.cell_type == "markdown"
        for match in re.finditer(syntax, without_code(cell.source), re.MULTILINE)
    ]


def no_badge(notebook, path, address=ADDRESS):
    cell = notebook.cells[0]
    badge = BADGE.format(address=address, name=path.name)
    if cell.source.strip() != badge or not is_removed(cell):
        return [f"the first cell, tagged remove-cell, must be {badge}"]
    return []


def no_bootstrap(notebook, path, address=ADDRESS):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    bootstrap = BOOTSTRAP.format(address=address)
    if not code or code[0].source.strip() != bootstrap.strip():
        return [f"the first code cell must be\n{bootstrap}"]
    return [] if is_removed(code[0]) else ["tag the first code cell remove-cell"]


def broken_links(text, folder):
    """Find links and images that lead to no file, and images without alt text."""
    text = without_code(text)
    found = [
        f"an image without alt text: {link}" for link in re.findall(r"!\[\]\S+", text)
    ]
    targets = re.findall(r"\]\(<?([^)>\s]+)", text)
    targets += re.findall(r"""\b(?:src|href)=["']([^"']+)""", text)
    for target in targets:
        file = target.partition("#")[0]
        if file and ":" not in file and not (folder / file).exists():
            found.append(f"leads to no file: {target}")
    return found


def broken_notebook_links(notebook, path):
    markdown = (cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return broken_links("\n\n".join(markdown), path.parent)


def open_checks(notebook, path):
    """Find visible checks: they are for CI, not for readers."""
    return [
        f"a check that is not folded: {first_line(cell)}"
        for cell in cells(notebook, "code")
        if re.search(r"^\s*(assert\b|np\.testing)", cell.source, re.MULTILINE)
        and not is_folded(cell)
    ]


def long_cells(notebook, path):
    code = [cell for cell in cells(notebook, "code") if not is_folded(cell)]
    lengths = [len(cell.source.strip().splitlines()) for cell in code]
    found = [
        f"{length} lines: {first_line(cell)}"
        for cell, length in zip(code, lengths, strict=True)
        if length > MAX_CELL
    ]
    if lengths and statistics.median(lengths) > MAX_MEDIAN_CELL:
        found.append(f"half of the cells are longer than {MAX_MEDIAN_CELL} lines")
    return found


def missing_parts(notebook, path):
    """Find missing parts of the opening and the closing of a chapter."""
    markdown = [cell.source for cell in cells(notebook, "markdown")]
    if not markdown:
        return ["no text"]
    found = []
    whole = "\n\n".join(markdown)
    opening = whole.partition("\n## ")[0] + "\n" + "\n".join(markdown[:2])
    if not re.match(r"# \S", markdown[0]):
        found.append("the first visible cell must start with `# Title`")
    if len(re.findall(r"^# ", without_code(whole), re.MULTILINE)) > 1:
        found.append("more than one title")
    for part, words in {
        "what you will learn": r"you(?: will|.ll) learn",
        "what you need": r"you need",
        "how long it takes": r"\bminutes?\b",
    }.items():
        if not re.search(words, opening, re.IGNORECASE):
            found.append(f"the opening does not say {part}")
    for heading in ("What this chapter showed", "Exercises", "Where to read more"):
        if f"\n## {heading}\n" not in whole:
            found.append(f"no section {heading!r}")
    solutions = re.findall(SOLUTION, whole, re.DOTALL)
    if len(solutions) < MIN_EXERCISES:
        found.append(f"fewer than {MIN_EXERCISES} exercises with a solution")
    for solution in solutions:
        if "```python\n" not in solution or not without_code(solution).strip():
            found.append(f"not code and an answer in words: {solution[:60]!r}")
    if whole.count("<details>") != whole.count("</details>"):
        found.append("a <details> is left open")
    return found


def wide_solutions(notebook, path):
    """Find code of a solution that the column of text would cut off."""
    whole = "\n".join(cell.source for cell in cells(notebook, "markdown"))
    return [
        line
        for solution in re.findall(SOLUTION, whole, re.DOTALL)
        for code in re.findall(r"```python\n(.*?)```", solution, re.DOTALL)
        for line in code.splitlines()
        if len(line) > MAX_LINE
    ]


RULES = [
    malformed,
    stored_outputs,
    undescribed_figures,
    myst_syntax,
    no_badge,
    no_bootstrap,
    broken_notebook_links,
    open_checks,
    long_cells,
    missing_parts,
    wide_solutions,
]


def read(path):
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


def test_the_contents_list_every_chapter():
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    listed = {
        chapter["file"] for part in contents["parts"] for chapter in part["chapters"]
    }
    there = {f"chapters/{path.stem}" for path in [*NOTEBOOKS, *PAGES]}
    assert NOTEBOOKS
    assert listed | {contents["root"]} == there


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_chapter(path, rule):
    assert rule(read(path), path) == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_page(path):
    assert broken_links(path.read_text(encoding="utf-8"), path.parent) == []


# The rules themselves.

HIDDEN = {"tags": ["remove-cell"]}
OPENING = """\
# A title

In this chapter you will learn nothing. You need nothing, and five minutes.
"""
EXERCISE = """\
Do nothing: see [the same](good.ipynb#exercises).

<details>
<summary>Solution</summary>

```python
"{cite}`this` is code, not a role"
```

Nothing happens.

</details>

"""
CLOSING = f"""\
## What this chapter showed

Nothing.

## Exercises

{EXERCISE * MIN_EXERCISES}
## Where to read more

Nowhere.
"""
DRAWING = {
    "mystnb": {
        "image": {"alt": "One line that rises steadily"},
        "figure": {"caption": "A line."},
    }
}


@pytest.fixture
def good(tmp_path):
    """Return a notebook that keeps every rule, and its path."""
    path = tmp_path / "good.ipynb"
    notebook = new_notebook(
        cells=[
            new_markdown_cell(
                BADGE.format(address=ADDRESS, name=path.name), metadata=HIDDEN
            ),
            new_markdown_cell(OPENING),
            new_code_cell(BOOTSTRAP.format(address=ADDRESS), metadata=HIDDEN),
            new_code_cell("plotting.history(result)", metadata=DRAWING),
            new_markdown_cell(CLOSING),
        ],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    nbformat.write(notebook, path)
    return read(path), path


def complaints(notebook, path):
    """Return the rules that a notebook breaks."""
    return [rule for rule in RULES if rule(notebook, path)]


def test_a_good_notebook_keeps_every_rule(good):
    assert complaints(*good) == []


def add_text(text):
    return lambda notebook: notebook.cells.insert(2, new_markdown_cell(text))


def add_code(source, **metadata):
    return lambda notebook: notebook.cells.insert(
        4, new_code_cell(source, metadata=metadata)
    )


def set_source(index, change):
    def break_it(notebook):
        notebook.cells[index].source = change(notebook.cells[index].source)

    return break_it


def cut(words):
    return lambda source: source.replace(words, "")


def set_count(notebook):
    notebook.cells[3].execution_count = 3


def set_output(notebook):
    notebook.cells[3].outputs = [nbformat.v4.new_output("stream", text="hello")]


def set_kernel(notebook):
    notebook.metadata.kernelspec.name = "my-kernel"


def repeat_cell(notebook):
    notebook.cells.append(copy.deepcopy(notebook.cells[-1]))


def show_bootstrap(notebook):
    notebook.cells[2].metadata = {}


ONLY_ALT = {"mystnb": {"image": {"alt": "One line that rises steadily"}}}
FILE_NAME = {"mystnb": {"image": {"alt": "plot.png"}, "figure": {"caption": "A."}}}


@pytest.mark.parametrize(
    ("break_it", "rule"),
    [
        (set_kernel, malformed),
        (repeat_cell, malformed),
        (set_count, stored_outputs),
        (set_output, stored_outputs),
        (add_code("fig, ax = plt.subplots()"), undescribed_figures),
        (add_code("plotting.history(result)", **ONLY_ALT), undescribed_figures),
        (add_code("plotting.history(result)", **FILE_NAME), undescribed_figures),
        (add_code("from memembed.plotting import history"), undescribed_figures),
        (add_text("```{note}\nAside.\n```"), myst_syntax),
        (add_text("::: {note}\nAside.\n:::"), myst_syntax),
        (add_text("See {cite:t}`shi2020` and `code`."), myst_syntax),
        (add_text("(a-label)=\n## A heading"), myst_syntax),
        (set_source(0, lambda badge: badge.replace("good", "other")), no_badge),
        (set_source(0, cut(ADDRESS)), no_badge),
        (set_source(2, cut(ADDRESS)), no_bootstrap),
        (show_bootstrap, no_bootstrap),
        (add_text("See [what is not there](missing.ipynb)."), broken_notebook_links),
        (add_text('<img src="missing.png" alt="Nothing">'), broken_notebook_links),
        (add_text("![](good.ipynb)"), broken_notebook_links),
        (add_code("assert True"), open_checks),
        (add_code("for x in y:\n    assert x", tags=["hide-input"]), open_checks),
        (add_code("np.testing.assert_equal(1, 1)"), open_checks),
        (add_code("\n".join(["pass"] * 16)), long_cells),
        (add_code("\n".join(["pass"] * 12)), long_cells),
        (set_source(1, lambda text: "Hello.\n\n" + text), missing_parts),
        (add_text("# Another title"), missing_parts),
        (set_source(1, cut("learn")), missing_parts),
        (set_source(1, cut("need")), missing_parts),
        (set_source(1, cut("minutes")), missing_parts),
        (set_source(4, cut("## What this chapter showed\n")), missing_parts),
        (set_source(4, cut("## Exercises\n")), missing_parts),
        (set_source(4, cut("## Where to read more\n")), missing_parts),
        (set_source(4, lambda text: text.replace(EXERCISE, "", 1)), missing_parts),
        (set_source(4, cut("Nothing happens.\n")), missing_parts),
        (set_source(4, cut("python\n")), missing_parts),
        (set_source(4, cut("<summary>")), missing_parts),
        (set_source(4, cut("</details>")), missing_parts),
        (set_source(4, lambda text: text.replace("role", "r" * 50)), wide_solutions),
    ],
)
def test_a_bad_notebook_breaks_one_rule(good, break_it, rule):
    notebook, path = good
    break_it(notebook)
    assert complaints(notebook, path) == [rule]


def test_a_folded_cell_may_check_and_may_be_long(good):
    notebook, path = good
    folded = {"tags": ["hide-input"], "jupyter": {"source_hidden": True}}
    add_code("\n".join(["assert True"] * 30), **folded)(notebook)
    assert complaints(notebook, path) == []


def test_external_links_and_anchors_are_not_checked(tmp_path):
    text = "[a](https://example.org/x) [b](#here) `[c](missing)` [d](mailto:a@b.c)"
    assert broken_links(text, tmp_path) == []


def test_chapters_run_in_parallel_and_failures_are_named(tmp_path):
    chapters = tmp_path / "chapters"
    chapters.mkdir()
    kernel = {"kernelspec": {"name": "python3", "display_name": "", "language": ""}}
    for name, source in (("good", "6 * 7"), ("bad", "1 / 0")):
        notebook = new_notebook(cells=[new_code_cell(source)], metadata=kernel)
        nbformat.write(notebook, chapters / f"{name}.ipynb")
    with pytest.raises(SystemExit, match=r"failed:\n.*bad\.ipynb$"):
        run_chapters.main(tmp_path, chapters)
    kept = get_cache(tmp_path / ".jupyter_cache").list_cache_records()
    assert [Path(record.uri).name for record in kept] == ["good.ipynb"]
