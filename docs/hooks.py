"""What building the site does beside MkDocs: the plotting library that the pages of the studies share is put beside them."""

import shutil
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

LIBRARY = "plotly.min.js"


def on_post_build(config: Any) -> None:
    """Called by MkDocs when the site is written."""
    place = Path(config["site_dir"]) / "studies"
    with as_file(files("plotly") / "package_data" / LIBRARY) as library:
        shutil.copyfile(library, place / LIBRARY)
