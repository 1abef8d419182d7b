"""Rows of runs of `polygraph train audio` and of `polygraph train verify`, side by side.

    python benchmarks/recognition_runs.py audio RUNS/*-s0 --out results/NAME/digits.json
    python benchmarks/recognition_runs.py verify RUNS/first-*-s? --out results/NAME/verify_orl.json

A folder's name is that of the variant and ``-s`` with the seed. Runs that are not done are refused,
and so are runs of other data, lengths or batches than the first. ``--keep`` keeps the rows of other
runs that the file has.

Rows of sounds have, beside the accuracy, which of the clips that test were given a wrong class: two
networks are compared clip by clip.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from finished_runs import Row, read_result


def read_run(folder: Path, kind: str) -> tuple[Row, list[Any]]:
    """The row of a run; and what must be the same in all of them."""
    result, row = read_result(folder)
    train = result["config"]["train"]
    row["epochs"] = train["epochs"]
    row |= _sounds(folder, result) if kind == "audio" else _identities(result)
    alike = [result["dataset_hash"], train["epochs"], train["steps"], train["batch_size"]]
    return row, alike


def _sounds(folder: Path, result: Row) -> Row:
    """Accuracy, and the clips of which the predicted class is not the right one."""
    from polygraph.data import AudioDataConfig, open_audio
    from polygraph.tasks import audio

    run = audio.load(folder)
    sounds = open_audio(AudioDataConfig(**result["config"]["data"]))
    wrong = run.predict(sounds.clips(sounds.test)) != sounds.labels[sounds.test]
    test = result["test"]
    if round(test["num_samples"] * (1 - test["accuracy"])) != wrong.sum():
        raise SystemExit(f"{folder}: the data are not those of the run: other clips are wrong")
    held = result["split"].removeprefix("speaker:")
    found = {name: test[name] for name in ("num_samples", "accuracy", "loss")}
    return {"held_out": held, "test": found | {"wrong": wrong.nonzero()[0].tolist()}}


def _identities(result: Row) -> Row:
    """Pairs, searches and the list of pairs that test."""
    test = result["test"]
    pairs = test["pairs"]
    rates = {rate["asked"]: rate["rate"] for rate in pairs["tar_at_far"]}
    return {
        "head": result["config"]["loss"],
        "split_seed": result["config"]["data"]["split_seed"],
        "test": {
            "num_samples": test["num_samples"],
            "num_identities": test["num_identities"],
            "pairs_sha256": pairs["sha256"],
            "num_pairs": pairs["num_genuine"] + pairs["num_impostors"],
            "disjoint_folds": pairs["disjoint_folds"],
            "accuracy": pairs["accuracy"],
            "accuracy_std": pairs["accuracy_std"],
            "accuracy_at_threshold": test["accuracy_at_threshold"],
            "eer": pairs["eer"],
            "eer_interval": pairs.get("intervals", {}).get("eer"),
            "auc": pairs["auc"],
            "tar_at_1e-2": rates[0.01],
            "rank1": test["identification"]["rank1"],
        },
    }


def merged(kept: list[Row], rows: list[Row]) -> list[Row]:
    """The rows kept from before and the new ones, which replace theirs."""
    made = {row["run"] for row in rows}
    return [row for row in kept if row["run"] not in made] + rows


def main(command: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("audio", "verify"))
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--keep", action="store_true", help="keep the file's rows of other runs")
    options = parser.parse_args(command)
    rows: list[Row] = []
    alike: list[Any] | None = None
    for folder in options.runs:
        row, same = read_run(folder, options.kind)
        if alike not in (None, same):
            raise SystemExit(f"{folder}: of other data, length or batch than {options.runs[0]}")
        alike = same
        rows.append(row)
    if options.keep:
        rows = merged(json.loads(options.out.read_text()), rows)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(rows, indent=1) + "\n")
    for row in rows:
        test = row["test"]
        print(f"{row['run']:30} {row['parameters']:>9,}  accuracy {test['accuracy']:.4f}")


if __name__ == "__main__":
    main()
