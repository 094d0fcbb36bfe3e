"""Link the book to the repository that builds it, so that a fork's book opens the fork.

GitHub Actions names that repository in GITHUB_REPOSITORY. Elsewhere, the address in
_config.yml is used.
"""

import os


def use_this_repository(app, config):
    """Replace the configured addresses with those of the running workflow."""
    owner, _, name = os.environ.get("GITHUB_REPOSITORY", "").partition("/")
    if name:
        server = os.environ.get("GITHUB_SERVER_URL", "https://github.com")
        config.html_theme_options["repository_url"] = f"{server}/{owner}/{name}"
        config.html_baseurl = f"https://{owner}.github.io/{name}/"


def setup(app):
    """Register with Sphinx."""
    app.connect("config-inited", use_this_repository)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
