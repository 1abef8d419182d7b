"""Tell the degree of a trained network, if it is a polynomial; write an affine one as a matrix."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from polygraph.cli.parser import Parser, UsageError, add_run

if TYPE_CHECKING:
    from polygraph.analysis.network_degree import NetworkDegree

_EXAMPLE = """The network is looked at in evaluation mode, in float64: by the parts that it calls,
and by finite differences of the whole. Of a generator, the values before its last tanh; of sounds,
as a function of their features; of a variational autoencoder, its decoder, in the code z.

example:
  polygraph degree --run RUN
  polygraph degree --run RUN --export affine.npz      matrix and bias of an affine network
"""


class _Network(NamedTuple):
    """What is looked at: a model, the shape of one sample, how it is called, and what it is."""

    model: Any
    in_shape: tuple[int, ...]
    call: Callable[[Any, Any], Any]
    meta: dict[str, Any]
    what: str = ""  # for people, where the class of the model does not say it
    learned: bool = False  # whether it is the decoder of a variational autoencoder


def run(arguments: Sequence[str]) -> int:
    """Do what the words after the command ask for; returns the exit status."""
    parser = Parser(
        prog="polygraph degree",
        description=__doc__,
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_run(parser)
    parser.add_argument(
        "--export",
        metavar="FILE.npz",
        help="write matrix [outputs, inputs] and bias of a network that is an affine map",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args(arguments)
    if chosen.export is not None and not chosen.export.lower().endswith(".npz"):
        raise UsageError(f"degree: --export must end in .npz, got {chosen.export!r}")
    from polygraph.analysis import network_degree

    network = _network(Path(chosen.run))
    found = network_degree(network.model, network.in_shape, call=network.call)
    if chosen.json:
        print(json.dumps(dataclasses.asdict(found)))
    else:
        for block in found.blocks:
            degree = "no polynomial" if block.degree is None else f"degree {block.degree}"
            print(f"{block.name} ({block.kind}): {degree}")
        what = network.what or type(network.model).__name__
        print(f"{what} of {list(network.in_shape)}: {found}")
        if network.learned and found.degree is None:
            print(_no_closed_form(found))
    if chosen.export is not None:
        _export(network, chosen.export)
    return 0


def _no_closed_form(found: NetworkDegree) -> str:
    """What it means for a decoder of codes that it is no polynomial."""
    kinds = sorted({reason.rpartition("(")[2].rstrip(")") for reason in found.reasons})
    why = f" ({', '.join(kinds)})" if kinds else ""
    return (
        f"This decoder has activations or norms{why}, so what it decodes has no degree in z and "
        "its metric on codes no closed form: it is differentiated instead."
    )


def _export(network: _Network, path: str) -> None:
    import sys

    import numpy as np

    from polygraph.analysis import affine_map

    classes = network.meta.get("classes")
    more = {} if classes is None else {"classes": np.array([str(name) for name in classes])}
    found = affine_map(network.model, network.in_shape, call=network.call)
    print(f"wrote {found.save(path, **more).resolve()}", file=sys.stderr)


def _network(folder: Path) -> _Network:
    """The network of a run of any kind."""
    from polygraph.train.recorded import kind_of

    ways = {
        "images": _images,
        "audio": _audio,
        "points": _points,
        "gan": _generator,
        "vae": _image_decoder,
    }
    return ways.get(kind_of(folder), _mesh)(folder)


def _plain(model: Any, x: Any) -> Any:
    return model(x)


def _before_tanh(model: Any, z: Any) -> Any:
    return model.polynomial(z)


def _logits(decoder: Any, z: Any) -> Any:
    return decoder.logits(z)


def _of_first_category(model: Any, points: Any) -> Any:
    return model(points, points.new_zeros(len(points)).long())


def _images(folder: Path) -> _Network:
    from polygraph.tasks.images.run import load_run

    return _of_images(load_run(folder))


def _audio(folder: Path) -> _Network:
    """The network of log-mel features, which are images of one channel."""
    from polygraph.tasks.audio.run import load_run

    return _of_images(load_run(folder))


def _of_images(trained: Any) -> _Network:
    config = trained.model.config
    shape = (config.in_channels, config.size, config.size)
    return _Network(trained.model, shape, _plain, trained.meta)


def _mesh(folder: Path) -> _Network:
    from polygraph.tasks.mesh.run import load_run

    trained = load_run(folder)
    if trained.model.config.variational:
        return _mesh_decoder(trained.model)
    return _Network(trained.model, (trained.model.num_vertices, 3), _plain, {})


def _mesh_decoder(model: Any) -> _Network:
    """The vertices that a variational autoencoder decodes, as a function of the code."""
    from polygraph.analysis.latent_metric import MeshDecoder

    shape = (model.config.latent_channels,)
    what = f"decoder of {type(model).__name__}"
    return _Network(MeshDecoder(model), shape, _plain, {}, what, learned=True)


def _image_decoder(folder: Path) -> _Network:
    """The values before the tanh (of bits: the logits) of what codes are decoded to."""
    from polygraph.tasks.vae.run import load_run

    model = load_run(folder).model
    shape = (model.config.latent_channels,)
    what = f"decoder of {type(model).__name__}"
    return _Network(model.decoder, shape, _logits, {}, what, learned=True)


def _generator(folder: Path) -> _Network:
    from polygraph.tasks.gan.run import load_run

    trained = load_run(folder)
    call = _before_tanh if hasattr(trained.model, "polynomial") else _plain
    return _Network(trained.model, (trained.latent_channels,), call, {})


def _points(folder: Path) -> _Network:
    from polygraph.tasks.points.run import load_run

    trained = load_run(folder)
    model = trained.model
    call = _of_first_category if getattr(model, "num_categories", 0) else _plain
    return _Network(model, (2 * model.k + 8, model.in_channels), call, trained.meta)
