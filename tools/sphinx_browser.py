"""Mend what a browser finds wrong with the pages that Sphinx writes.

- Jupyter Book puts all scripts and styles of `_static` on every page. One that is named
  like a page is for that page alone.
- It puts thebe on every page too, which the book does not use, and twice, which is an
  error in the console.
- Docutils gives the entries of a bibliography a role that no list may hold.
"""

from pathlib import PurePosixPath


def only_needed(app, page, template, context, doctree):
    """Leave out scripts and styles that are another page's, or thebe's."""
    others = {PurePosixPath(each).name for each in app.env.found_docs}
    others.discard(PurePosixPath(page).name)

    def needed(file):
        inline = str(file.attributes.get("body", ""))
        path = PurePosixPath(file.filename or "")
        return "thebe" not in path.name + inline and path.stem not in others

    for kind in ("script_files", "css_files"):
        context[kind] = list(filter(needed, context[kind]))


def roles_of_lists(app, page, template, context, doctree):
    """Make the entries of a bibliography items of the list that they are in."""
    if "body" in context:
        context["body"] = context["body"].replace(
            'role="doc-biblioentry"', 'role="listitem"'
        )


def setup(app):
    """Register with Sphinx."""
    app.connect("html-page-context", only_needed)
    app.connect("html-page-context", roles_of_lists)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
