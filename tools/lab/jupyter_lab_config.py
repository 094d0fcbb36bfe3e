"""How `make lab` starts: on the landing page, with the chapters in the sidebar.

overrides.json, in this folder, renders Markdown pages and turns off the news.
"""

from pathlib import Path

HERE = Path(__file__).resolve().parent
c = get_config()  # noqa: F821
c.ServerApp.root_dir = str(HERE.parents[1] / "chapters")
c.LabApp.app_settings_dir = str(HERE)
c.LabApp.default_url = "/lab/tree/index.md"
