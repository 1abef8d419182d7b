"""Folders of trained mesh autoencoders, in the layout of the Hugging Face hub.

``config.json``              what the model is, what its mesh is, SHA-256 of the two files below
                           and of these settings (``metadata`` may be edited)
``model.safetensors``        the ``state_dict``: weights, and the normalisation ``mean`` and ``std``
``hierarchy.safetensors``    the template at every level and the tables between the levels
``README.md``                the model card

The folder is all that a model needs: neither the data nor the code that trained it. Nothing is
unpickled. ``config.json`` is written last and names the hashes of the other files, so that a folder
whose writing was interrupted, or of which a file was exchanged, is refused.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.numpy import load as decode_arrays
from safetensors.numpy import save as encode_arrays
from safetensors.torch import load as decode_tensors
from safetensors.torch import save as encode_tensors
from torch import nn

import polygraph
from polygraph._files import open_regular, read_regular, write_atomic
from polygraph._json import read_json
from polygraph._memory import readable_bytes
from polygraph._text import markdown_text
from polygraph.mesh.origin import ZERO, Point, checked_point
from polygraph.mesh.up import Up, checked_up
from polygraph.models.state import StateError, build_with

if TYPE_CHECKING:
    from polygraph.mesh.hierarchy import MeshHierarchy

CONFIG, CARD = "config.json", "README.md"
WEIGHTS, HIERARCHY = "model.safetensors", "hierarchy.safetensors"
_BLOCK = 1 << 22
MODEL_TYPE, VERSION = "polygraph-mesh-autoencoder", 1
_SECTIONS = {
    "model_type": str,
    "version": int,
    "model": dict,
    "hierarchy": dict,
    "sha256": dict,
    "to_mm": (int, float, type(None)),
    "metadata": dict,
}


_Model = TypeVar("_Model", bound="PretrainedMixin")


class PretrainedError(ValueError):
    """A folder that is no pretrained model, or is damaged; the message names the file and why."""


class PretrainedMixin(nn.Module):
    """What makes a mesh model one that can be written to a folder, and read from it.

    A subclass is made of a configuration and a hierarchy: ``cls(config, hierarchy)``.

    Attributes:
        config_class: the dataclass of the configuration.
        config: as given.
        hierarchy: as given.
        origin: x, y and z that are subtracted from meshes before the model sees them.
        up: the axis of its meshes that points up in pictures; ``auto`` where that is not known.
    """

    config_class: ClassVar[type]
    config: Any
    hierarchy: Any
    origin: Point = ZERO
    up: Up = "auto"

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        to_mm: float | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write the model with all that it needs into a folder, which is made when missing.

        Args:
            folder: files of an earlier model in it are replaced.
            to_mm: millimetres per unit of the meshes, for those who measure errors.
            metadata: JSON values about data, training and errors; they go into the model card.

        Returns:
            The folder.

        Raises:
            ValueError: the hierarchy has no faces or settings (it is no `MeshHierarchy`),
                a weight is not finite, ``to_mm`` is not positive, ``metadata`` is not JSON.
            OSError: a file could not be written.
        """
        from polygraph.mesh.hierarchy import MeshHierarchy

        hierarchy = self.hierarchy
        if not isinstance(hierarchy, MeshHierarchy):
            raise ValueError(
                "save_pretrained: the model's hierarchy must be a polygraph.mesh.MeshHierarchy, "
                f"got {type(hierarchy).__name__}"
            )
        if to_mm is not None and not 0 < to_mm < math.inf:
            raise ValueError(f"save_pretrained: to_mm must be None or positive, got {to_mm}")
        state = {
            # A clone: the format refuses two tensors that share storage.
            name: value.detach().to("cpu", copy=True).contiguous()
            for name, value in self.state_dict().items()
        }
        for name, value in state.items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise ValueError(f"save_pretrained: {name} holds NaN or infinity")
        contents = {
            WEIGHTS: encode_tensors(state, metadata={"format": "pt"}),
            HIERARCHY: encode_arrays(hierarchy.to_arrays()),
        }
        hashes = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
        config = {
            "model_type": MODEL_TYPE,
            "architectures": [type(self).__name__],
            "version": VERSION,
            "polygraph": polygraph.__version__,
            "model": asdict(self.config),
            "hierarchy": {"hash": hierarchy.hash, "settings": hierarchy.settings},
            "to_mm": to_mm,
            "origin": list(self.origin),
            "up": self.up,
            "metadata": dict(metadata or {}),
            "sha256": hashes,
        }
        try:
            hashes[CONFIG] = _settings_hash(config)
            text = json.dumps(config, indent=2, allow_nan=False) + "\n"
        except (TypeError, ValueError) as error:
            raise ValueError(f"save_pretrained: metadata must be JSON values ({error})") from error
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        contents[CARD] = model_card(self, config).encode()
        contents[CONFIG] = text.encode()
        for name, data in contents.items():
            write_atomic(folder / name, data)
        return folder

    @classmethod
    def from_pretrained(
        cls: type[_Model], folder: str | os.PathLike[str], device: torch.device | str = "cpu"
    ) -> _Model:
        """The model that :meth:`save_pretrained` wrote, in eval mode, the same to the bit.

        Raises:
            PretrainedError: a file is missing, damaged or does not fit the others.

        Example:
            >>> import tempfile
            >>> import numpy as np
            >>> from polygraph.models import MeshAutoencoder, create_model
            >>> from scipy.spatial import Delaunay
            >>> vertices = np.random.default_rng(0).random((100, 3))
            >>> template = vertices, Delaunay(vertices[:, :2]).simplices
            >>> model = create_model("full-2", template=template, factors=(2, 2, 2, 2))
            >>> folder = model.save_pretrained(tempfile.mkdtemp())  # or: polygraph export --run RUN
            >>> loaded = MeshAutoencoder.from_pretrained(folder)
            >>> loaded.hierarchy.sizes, loaded.config.latent_channels, loaded.training
            ([100, 50, 25, 13, 7], 16, False)

        See Also:
            `save_pretrained`; `load_pretrained`, which also gives the description.
        """
        return cls.load_pretrained(folder, device)[0]

    @classmethod
    def load_pretrained(
        cls: type[_Model], folder: str | os.PathLike[str], device: torch.device | str = "cpu"
    ) -> tuple[_Model, dict[str, Any]]:
        """Read what :meth:`save_pretrained` wrote, and its description.

        Returns:
            The model in eval mode, of the dtype that it was saved in, and what ``config.json``
            holds.

        Raises:
            PretrainedError: the folder or a file is missing, unreadable, of another version or
                kind, does not match its hash, or a tensor is missing, superfluous or of another
                shape.
        """
        from polygraph.mesh.hierarchy import MeshHierarchy
        from polygraph.mesh.io import MeshError

        folder = Path(folder)
        config = read_config(folder)
        data = {name: _read_checked(folder / name, config) for name in (WEIGHTS, HIERARCHY)}
        try:
            hierarchy = MeshHierarchy.from_arrays(
                decode_arrays(data[HIERARCHY]), config["hierarchy"]["settings"]
            )
        except (SafetensorError, MeshError, KeyError, TypeError, ValueError) as error:
            raise PretrainedError(f"{folder / HIERARCHY}: not a mesh hierarchy: {error}") from error
        if hierarchy.hash != config["hierarchy"]["hash"]:
            raise PretrainedError(
                f"{folder / HIERARCHY}: the hierarchy has hash {hierarchy.hash[:12]}, "
                f"{CONFIG} wants {str(config['hierarchy']['hash'])[:12]}"
            )
        try:
            settings = _model_config(cls.config_class, config["model"])
        except (ValueError, TypeError) as error:
            raise PretrainedError(f"{folder / CONFIG}: model: {error}") from error
        try:
            state = decode_tensors(data[WEIGHTS])
        except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise PretrainedError(
                f"{folder / WEIGHTS}: not a safetensors file ({error})"
            ) from error
        try:
            model = build_with(lambda: cls(settings, hierarchy), settings, state)
        except StateError as error:
            message = f"{folder / WEIGHTS}: does not fit the model of {CONFIG}: {error}"
            raise PretrainedError(message) from error
        except (ValueError, TypeError) as error:
            raise PretrainedError(f"{folder / CONFIG}: model: {error}") from error
        model.origin, model.up = _place(config, folder / CONFIG)
        return model.to(device), config


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What the ``config.json`` of a folder holds, checked for kind, version and sections.

    Raises:
        PretrainedError: there is none, or it describes something else.
    """
    folder = Path(folder)
    path = folder / CONFIG
    if not folder.is_dir():
        raise PretrainedError(
            f"{folder}: no such folder (a model of a hub is downloaded first: "
            "hf download NAME --local-dir DIR)"
        )
    if not os.path.exists(path):
        raise PretrainedError(f"{path}: no such file: not a pretrained model")
    config = read_json(path, PretrainedError)
    if not isinstance(config, dict) or config.get("model_type") != MODEL_TYPE:
        got = config.get("model_type") if isinstance(config, dict) else type(config).__name__
        raise PretrainedError(f"{path}: model_type must be {MODEL_TYPE!r}, got {got!r}")
    if config.get("version") != VERSION:
        raise PretrainedError(
            f"{path}: this polygraph reads version {VERSION}, got {config.get('version')!r}"
        )
    for name, kind in _SECTIONS.items():
        if name not in config or not isinstance(config[name], kind):  # type: ignore[arg-type]
            raise PretrainedError(f"{path}: {name} is missing or of the wrong type")
    to_mm = config["to_mm"]
    if to_mm is not None and (isinstance(to_mm, bool) or not 0 < to_mm < math.inf):
        raise PretrainedError(f"{path}: to_mm must be null or a positive number, got {to_mm}")
    hashes = config["sha256"]
    if not {WEIGHTS, HIERARCHY} <= set(hashes) <= {WEIGHTS, HIERARCHY, CONFIG}:
        raise PretrainedError(f"{path}: sha256 must name {WEIGHTS} and {HIERARCHY}")
    # Folders of earlier versions have no hash of the configuration.
    if CONFIG in hashes and hashes[CONFIG] != _settings_hash(config):
        raise PretrainedError(
            f"{path}: changed or not whole: SHA-256 {_settings_hash(config)[:12]} of the settings, "
            f"it wants {str(hashes[CONFIG])[:12]} (only metadata may be edited)"
        )
    if not isinstance(config["hierarchy"].get("settings"), dict):
        raise PretrainedError(f"{path}: hierarchy must have the object settings")
    return config


def _place(config: dict[str, Any], path: Path) -> tuple[Point, Up]:
    """What is to be subtracted from meshes, and which way is up; old folders know of neither."""
    try:
        return checked_point(config.get("origin", ZERO)), checked_up(config.get("up", "auto"))
    except ValueError as error:
        raise PretrainedError(f"{path}: {error}") from error


def _settings_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 of what decides about the model: all of the configuration but ``metadata``."""
    files = {name: value for name, value in config["sha256"].items() if name != CONFIG}
    settings = {name: value for name, value in config.items() if name != "metadata"}
    text = json.dumps({**settings, "sha256": files}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _model_config(kind: type, values: dict[str, Any]) -> Any:
    unknown = sorted(set(values) - {f.name for f in fields(kind)})
    if unknown:
        raise ValueError(f"unknown settings {', '.join(unknown)}: saved by a newer polygraph?")
    return kind(**values)


def _read_checked(path: Path, config: dict[str, Any]) -> bytes:
    """The content of a file, if it is the one that the configuration names.

    It is hashed a block at a time: no memory is taken for a file that is another one.
    """
    most = readable_bytes()  # the file and its tensors are in memory at once
    digest = hashlib.sha256()
    file, _ = open_regular(path, most, PretrainedError)
    with file:
        while block := file.read(_BLOCK):
            digest.update(block)
    wanted, got = config["sha256"].get(path.name), digest.hexdigest()
    data = read_regular(path, most, PretrainedError) if got == wanted else b""
    if got != wanted or hashlib.sha256(data).hexdigest() != wanted:
        raise PretrainedError(
            f"{path}: changed or not whole: SHA-256 {got[:12]}, {CONFIG} wants {str(wanted)[:12]}"
        )
    return data


def model_card(model: PretrainedMixin, config: Mapping[str, Any]) -> str:
    """The README of a pretrained model: what it is, how to use it, where it comes from."""
    hierarchy: MeshHierarchy = model.hierarchy
    settings = model.config
    kind = getattr(settings, "block", "")
    order = ", ".join(str(n) for n in dict.fromkeys(getattr(settings, "orders", ())))
    facts = {
        "operator": settings.operator,
        "block": f"{kind}, order {order}" if kind != "first_order" else "first order",
        "latent numbers": settings.latent_channels,
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        "vertices per level": ", ".join(f"{n:,}" for n in hierarchy.sizes),
        "activation": settings.activation,
        "millimetres per unit": "not given" if config["to_mm"] is None else f"{config['to_mm']:g}",
        "hierarchy": f"`{hierarchy.hash[:16]}`",
    }
    if any(model.origin):
        place = ", ".join(map(repr, model.origin))
        facts["origin"] = f"{place}: to be subtracted from meshes in float64 first"
    lines = [
        "---",
        "library_name: polygraph",
        "tags: [mesh, 3d, autoencoder, polynomial-networks, pytorch]",
        "---",
        "",
        "# Mesh autoencoder",
        "",
        f"Encodes meshes of one template ({hierarchy.sizes[0]:,} vertices) to "
        f"{settings.latent_channels} numbers each, and decodes them.",
        "",
        "```python",
        "from polygraph.models import MeshAutoencoder",
        "",
        "model = MeshAutoencoder.from_pretrained(FOLDER)",
        f"# x: [B, {hierarchy.sizes[0]}, 3], vertices as the template's",
        *_usage(model),
        "faces = model.hierarchy.faces[0]",
        "```",
        "",
        *_table(facts),
    ]
    if config["metadata"]:
        lines += ["", "## Origin", "", *_table(_flat(config["metadata"]))]
    return "\n".join([*lines, ""])


def _usage(model: PretrainedMixin) -> list[str]:
    """Lines of Python; with an origin, meshes are moved in float64."""
    if not any(model.origin):
        return ["codes = model.encode(x)", "meshes = model.decode(codes)"]
    return [
        "import torch",
        "origin = torch.tensor(model.origin, dtype=torch.float64)",
        "codes = model.encode((x.double() - origin).to(model.mean))",
        "meshes = model.decode(codes).double() + origin",
    ]


def _table(rows: Mapping[str, Any]) -> list[str]:
    cells = [f"| {markdown_text(name)} | {markdown_text(value)} |" for name, value in rows.items()]
    return ["| | |", "|---|---|", *cells]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
