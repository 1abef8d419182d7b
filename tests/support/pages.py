"""Programs of the documentation's pages, in a child."""

import os
import runpy
import warnings


def run_program(path):
    """Run a file as ``python -W error::UserWarning`` does, in its own folder."""
    warnings.filterwarnings("error", category=UserWarning)
    os.chdir(path.parent)
    runpy.run_path(str(path), run_name="__main__")
