"""Fix problems that a browser reports in the pages that Sphinx writes.

- Jupyter Book puts all scripts and styles of `_static` on every page. A file with the
  name of a page is needed only on that page.
- It also puts thebe on every page, twice, which is an error in the console. The book
  does not use thebe.
- Docutils gives the entries of a bibliography a role that is not allowed in a list.
"""

from pathlib import PurePosixPath


def only_needed(app, page, template, context, doctree):
    """Leave out the scripts and styles of other pages and of thebe."""
    others = {PurePosixPath(each).name for each in app.env.found_docs}
    others.discard(PurePosixPath(page).name)

    def needed(file):
        inline = str(file.attributes.get("body", ""))
        path = PurePosixPath(file.filename or "")
        return "thebe" not in path.name + inline and path.stem not in others

    for kind in ("script_files", "css_files"):
        context[kind] = list(filter(needed, context[kind]))


def roles_of_lists(app, page, template, context, doctree):
    """Give the entries of a bibliography the role of list items."""
    if "body" in context:
        context["body"] = context["body"].replace(
            'role="doc-biblioentry"', 'role="listitem"'
        )


def setup(app):
    """Register with Sphinx."""
    app.connect("html-page-context", only_needed)
    app.connect("html-page-context", roles_of_lists)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
