"""Take the noise out of a picture, a mesh or a point cloud, by a trained network."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polygraph.cli.parser import Parser, UsageError
from polygraph.cli.vertices import SHAPES, denoise_shape

_WRITTEN = {".png": "PNG", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF", ".webp": "WEBP"}
_WRITTEN |= {".jpg": "JPEG", ".jpeg": "JPEG", ".pgm": "PPM", ".ppm": "PPM"}
_FAR = 1.25  # how much stronger or weaker noise may be than what a network was trained for


def run(arguments: Sequence[str]) -> int:
    """Do what the words after the command ask for; returns the exit status."""
    parser = Parser(prog="polygraph denoise", description=__doc__)
    parser.add_argument(
        "picture",
        help="8 bits a channel, without alpha; .npy, white being 1; or a mesh or point cloud: "
        f"{', '.join(SHAPES)}",
    )
    parser.add_argument(
        "out", help="file to write: .png, .tif, .jpg, ..., .npy of floats; or .ply, .obj, .xyz, ..."
    )
    parser.add_argument(
        "--run",
        required=True,
        action="append",
        metavar="DIR",
        help="folder of a trained denoiser; of several that whose noise is nearest is taken",
    )
    parser.add_argument(
        "--sigma",
        metavar="S",
        help="standard deviation of the noise, white being 255; auto: estimate it",
    )
    parser.add_argument("--tile", type=int, default=512, help="pixels at a time, default: 512")
    parser.add_argument(
        "--overlap", type=int, default=48, help="of a tile's margin that is not kept, default: 48"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args(arguments)
    if Path(chosen.picture).suffix.lower() in SHAPES:
        return denoise_shape(chosen)
    suffix = Path(chosen.out).suffix.lower()
    if suffix not in (*_WRITTEN, ".npy"):
        raise UsageError(
            f"denoise: out must end in {', '.join(_WRITTEN)} or .npy, got {chosen.out!r}"
        )
    given = _sigma(chosen.sigma)
    if not 0 <= 2 * chosen.overlap < chosen.tile:
        raise UsageError(
            f"denoise: overlap must be at least 0 and below half of tile = {chosen.tile}, got "
            f"{chosen.overlap}"
        )
    from polygraph.tasks.denoise.run import estimate_noise, load_run

    runs = [load_run(folder) for folder in chosen.run]
    pixels = _read(Path(chosen.picture))
    if given == "auto" or (given is None and len(runs) > 1):
        given = estimate_noise(pixels)
    taken = runs[0] if given is None else min(runs, key=lambda run: _distance(run.sigma, given))
    _warn(taken, given)
    start = time.perf_counter()
    made = taken.denoise(pixels, tile=chosen.tile, overlap=chosen.overlap, show=True)
    seconds = time.perf_counter() - start
    _write(Path(chosen.out), made)
    row = {
        "picture": chosen.picture,
        "out": chosen.out,
        "run": str(taken.folder),
        "sigma": given,
        "trained_for": list(taken.sigma),
        "seconds": round(seconds, 3),
    }
    if chosen.json:
        print(json.dumps(row))
        return 0
    noise = "" if given is None else f"noise {given:.1f}, "
    print(
        f"{chosen.picture}: {pixels.shape[1]} x {pixels.shape[0]}, {noise}network for "
        f"{_text(taken.sigma)}, {seconds:.1f} s\n{Path(chosen.out).resolve()}"
    )
    return 0


def _sigma(text: str | None) -> Any:
    """None, "auto" or a number."""
    if text is None or text == "auto":
        return text
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value <= 255:
        raise UsageError(
            f"denoise: sigma must be auto or above 0 and at most 255 (white), got {text!r}"
        )
    return value


def _distance(trained: tuple[float, ...], sigma: float) -> float:
    """How far noise is from what a network was trained for, as a factor from 1 on."""
    low, high = trained[0], trained[-1]
    sigma = max(sigma, 1e-6)
    return max(1.0, low / sigma, sigma / high)


def _text(sigma: tuple[float, ...]) -> str:
    return " to ".join(f"{s:g}" for s in sigma)


def _warn(taken: Any, sigma: float | None) -> None:
    if sigma is None or _distance(taken.sigma, sigma) <= _FAR:
        return
    what = "noise will stay" if sigma > taken.sigma[-1] else "details will be lost"
    print(
        f"polygraph: the noise is {sigma:.1f}, the network was trained for {_text(taken.sigma)}: "
        f"{what}",
        file=sys.stderr,
    )


def _read(path: Path) -> Any:
    """Pixels ``[H, W]`` or ``[H, W, 3]``.

    Raises:
        ValueError: no picture of 8 bits a channel, or transparent; no array of one.
    """
    import numpy as np

    if path.suffix.lower() == ".npy":
        from polygraph._memory import check_room

        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path}: not a readable array: {error}") from error
        check_room(3 * array.nbytes, f"{path}: {list(array.shape)}")
        return np.array(array)
    from polygraph.data.pictures import read_pixels

    pixels = read_pixels(path, opaque=True)
    return pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)


def _write(path: Path, made: Any) -> None:
    import io

    import numpy as np

    from polygraph._files import write_atomic

    buffer = io.BytesIO()
    if path.suffix.lower() == ".npy":
        floats = made if made.dtype != np.uint8 else made.astype(np.float32) / 255
        np.save(buffer, floats, allow_pickle=False)
    else:
        from PIL import Image

        if made.dtype != np.uint8:
            made = (made.clip(0, 1) * 255).round().astype(np.uint8)
        how: dict[str, dict[str, Any]] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}
        name = _WRITTEN[path.suffix.lower()]
        Image.fromarray(made).save(buffer, name, **how.get(name, {}))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue())
