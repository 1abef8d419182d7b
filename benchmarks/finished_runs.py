"""What the rows of finished trainings have in common."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

Row = dict[str, Any]
KEPT = ("config_hash", "dataset", "commit", "torch", "machine", "threads", "steps", "parameters")


def read_result(folder: Path) -> tuple[Row, Row]:
    """The result of a run, and what every row has of it: names, seed, preset and `KEPT`.

    Raises:
        SystemExit: the run is not done, or its folder is not ``VARIANT-sSEED``.
    """
    if not (folder / "result.json").is_file():
        raise SystemExit(f"{folder}: no finished run here (result.json is missing)")
    result: Row = json.loads((folder / "result.json").read_text())
    config = result["config"]
    seed = config["train"]["seed"]
    named = re.fullmatch(r"(.+)-s(\d+)", folder.name)
    if named is None or int(named[2]) != seed:
        raise SystemExit(f"{folder}: its name must end in -s{seed}, its seed")
    row: Row = {"run": folder.name, "variant": named[1], "seed": seed, "preset": config["preset"]}
    row |= {key: result[key] for key in KEPT}
    return result, row | {
        "batch_size": config["train"]["batch_size"],
        "best_step": result["best_step"],
    }
