"""How `make lab` opens: on the landing page, with the chapters beside it.

overrides.json, here too, shows pages as pages and asks for no news.
"""

from pathlib import Path

HERE = Path(__file__).resolve().parent
c = get_config()  # noqa: F821
c.ServerApp.root_dir = str(HERE.parents[1] / "chapters")
c.LabApp.app_settings_dir = str(HERE)
c.LabApp.default_url = "/lab/tree/index.md"
