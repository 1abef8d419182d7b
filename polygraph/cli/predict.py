"""Tell the class of pictures, sounds or point clouds, or the part of each point, by a network."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from polygraph.cli.parser import Parser, UsageError, add_run


def run(arguments: Sequence[str]) -> int:
    """Do what the words after the command ask for; returns the exit status."""
    parser = Parser(prog="polygraph predict", description=__doc__)
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="pictures; or sounds (.wav); or .ply, .pcd, .xyz: points as in training, usually "
        "centred and in the unit sphere",
    )
    add_run(parser)
    parser.add_argument(
        "--unit-sphere", action="store_true", help="centre each cloud and scale it into the sphere"
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON: probabilities of classes, or parts' points"
    )
    parts = parser.add_argument_group("of runs with --task segment")
    parts.add_argument(
        "--class",
        dest="kind",
        metavar="NAME",
        help="the class of the clouds, where the network is told it",
    )
    parts.add_argument(
        "--out",
        metavar="FOLDER",
        help="where NAME.parts.ply goes: points, colours, parts (default: beside CLOUD)",
    )
    parts.add_argument(
        "--npy",
        action="store_true",
        help="write NAME.parts.npy, the parts int64 [N], instead of a .ply file",
    )
    chosen = parser.parse_args(arguments)
    from polygraph.train.recorded import kind_of

    kind = kind_of(Path(chosen.run))
    if kind in ("images", "audio"):
        return _whole_files(chosen, kind)
    from polygraph.tasks.points.run import SegmenterRun, load_run

    trained = load_run(chosen.run)
    origin = trained.meta.get("origin", ())
    if chosen.unit_sphere and any(origin):
        raise UsageError(
            f"predict: --unit-sphere is for networks of centred clouds, and {chosen.run} was "
            f"trained on clouds around {', '.join(f'{x:g}' for x in origin)}"
        )
    if isinstance(trained, SegmenterRun):
        return _segment(trained, chosen)
    _refuse_parts(chosen)
    inputs = (_points(path, chosen.unit_sphere)[1] for path in chosen.files)
    return _classify(trained, chosen, "cloud", inputs)


def _whole_files(chosen: Any, kind: str) -> int:
    """Tell the class of pictures or of sounds."""
    _refuse_parts(chosen)
    if chosen.unit_sphere:
        what = "sounds" if kind == "audio" else "images"
        raise UsageError(f"predict: --unit-sphere is for point clouds, {chosen.run} is of {what}")
    trained: Any
    if kind == "audio":
        from polygraph.tasks.audio.run import load_run as load_audio

        trained = load_audio(chosen.run)
    else:
        from polygraph.tasks.images.run import load_run

        trained = load_run(chosen.run)
    what = "sound" if kind == "audio" else "image"
    return _classify(trained, chosen, what, map(trained.read, chosen.files))


def _refuse_parts(chosen: Any) -> None:
    given = {"--class": chosen.kind, "--out": chosen.out, "--npy": chosen.npy}
    for option, value in given.items():
        if value:
            raise UsageError(f"predict: {option} is for segmenters, {chosen.run} is a classifier")


def _classify(trained: Any, chosen: Any, what: str, inputs: Iterable[Any]) -> int:
    """Say the class of each file, and with --json the probabilities of all."""
    from polygraph.train.supervised import predicted

    rows = []
    for path, one in zip(chosen.files, inputs, strict=True):
        shares = trained.predict_proba(one)[0]
        try:
            best = int(predicted(shares[None])[0])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        rows.append(
            {
                what: path,
                "class": trained.classes[best],
                "probability": float(shares[best]),
                "probabilities": dict(zip(trained.classes, shares.tolist(), strict=True)),
            }
        )
    if chosen.json:
        print(json.dumps(rows))
        return 0
    for row in rows:
        print(f"{row[what]}: {row['class']} ({row['probability']:.1%})")
    return 0


def _segment(trained: Any, chosen: Any) -> int:
    """Write the parts of each cloud's points, and say how many points each part has."""
    import numpy as np

    files = [_file(path, chosen.out, chosen.npy) for path in chosen.files]
    for at, file in enumerate(files):
        if file in files[:at]:
            raise UsageError(f"predict: {chosen.files[at]} and another cloud would both be {file}")
    if chosen.out is not None:
        Path(chosen.out).mkdir(parents=True, exist_ok=True)
    rows = []
    for path, file in zip(chosen.files, files, strict=True):
        points, input_points = _points(path, chosen.unit_sphere)
        labels = trained.predict(input_points, chosen.kind)[0]
        _write(file, points, labels)
        counts = np.bincount(labels, minlength=len(trained.parts)).tolist()
        parts = {name: n for name, n in zip(trained.parts, counts, strict=True) if n}
        rows.append({"cloud": path, "file": str(file), "parts": parts})
    if chosen.json:
        print(json.dumps(rows))
        return 0
    for row in rows:
        shares = ", ".join(f"{name} {count:,}" for name, count in row["parts"].items())
        print(f"{row['cloud']}: {shares} -> {row['file']}")
    return 0


def _file(cloud: str, out: str | None, npy: bool) -> Path:
    """Where the parts of a cloud go."""
    folder = Path(cloud).parent if out is None else Path(out)
    return folder / f"{Path(cloud).stem}.parts.{'npy' if npy else 'ply'}"


def _write(file: Path, points: Any, labels: Any) -> None:
    """A file that appears complete or not at all."""
    import numpy as np

    from polygraph._files import atomic_path
    from polygraph.mesh.part_cloud import write_labelled

    if file.suffix == ".ply":
        write_labelled(file, points, labels)
        return
    with atomic_path(file) as temporary, temporary.open("wb") as stream:
        np.save(stream, labels)


def _points(path: str, unit_sphere: bool) -> tuple[Any, Any]:
    """The points of a file as they are, and as the network gets them."""
    import numpy as np

    from polygraph.mesh.cloud import read_cloud

    points = read_cloud(path)
    if not unit_sphere:
        return points, points
    centred = points - (points.max(0) + points.min(0)) / 2
    return points, centred / (np.linalg.norm(centred, axis=1).max() or 1.0)
