"""Print what was found: torch, CUDA, instruction set, extras.

Every line is found out on its own: whatever is missing or broken is reported, and the rest is still
printed.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path

import polygraph
from polygraph.cli.parser import Parser

# What each extra brings: names to import -> names on the package index.
EXTRAS = {
    "mesh": {"scipy": "scipy", "h5py": "h5py"},
    "train": {
        "lightning_fabric": "lightning-fabric",
        "jsonargparse": "jsonargparse",
        "tqdm": "tqdm",
        "tensorboard": "tensorboard",
        "torchmetrics": "torchmetrics",
        "PIL": "pillow",
    },
    "report": {"matplotlib": "matplotlib", "plotly": "plotly"},
    "open3d": {"open3d": "open3d"},
}


def run(arguments: Sequence[str]) -> int:
    """Do what the words after the command ask for; returns the exit status."""
    description = (__doc__ or "").splitlines()[0]
    Parser(prog="polygraph doctor", description=description).parse_args(arguments)
    lines, working = report()
    print("\n".join(lines))
    return 0 if working else 1


def extra_of(module: str) -> str | None:
    """The extra that brings a module, or None."""
    top = module.split(".")[0]
    return next((extra for extra, packages in EXTRAS.items() if top in packages), None)


def version_of(package: str) -> str | None:
    """Version of an installed package, without importing it; None when it is not installed."""
    import importlib.metadata  # takes longer than all that the help of the commands imports

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def report() -> tuple[list[str], bool]:
    """Lines for people, and whether everything that is needed works."""
    folder = Path(polygraph.__file__).parent
    lines = [
        f"polygraph     {polygraph.__version__} in {folder}",
        f"python        {platform.python_version()} on {platform.system()} {platform.machine()}",
    ]
    try:
        import torch
    except Exception as error:  # a broken torch can fail with anything, OSError included
        lines.append(f"torch         does not import: {type(error).__name__}: {error}")
        lines.append("              pip install 'torch>=2.10', then install polygraph again")
        return lines + _extras(), False
    lines.append(f"torch         {torch.__version__}, {torch.get_num_threads()} threads")
    lines += _cuda()
    loaded, working = _libraries()
    lines += loaded
    lines.append(f"torch_geometric {version_of('torch_geometric') or 'missing'}")
    return lines + _extras() + _places(), working


def _cuda() -> list[str]:
    import torch

    if torch.version.cuda is None:
        return ["CUDA          this torch is built without it"]
    if not torch.cuda.is_available():
        return [f"CUDA          {torch.version.cuda}, but no device was found"]
    names = []
    for i in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(i)
        names.append(f"{torch.cuda.get_device_name(i)} (sm_{major}{minor})")
    return [f"CUDA          {torch.version.cuda}: {', '.join(names)}"]


def _libraries() -> tuple[list[str], bool]:
    """State of the compiled libraries, and whether they load."""
    import torch

    from polygraph._load import find_library, load_libraries

    try:
        load_libraries()
    except Exception as error:  # the reason is what the reader is here for
        return [f"library       does not load: {error}"], False
    lines = [f"library       {getattr(find_library('_C'), 'name', '?')} loaded"]
    cuda = find_library("_C_cuda")
    if cuda is not None:
        state = "loaded" if torch.version.cuda else "not loaded: this torch has no CUDA"
        lines.append(f"              {cuda.name} {state}")
    elif torch.version.cuda:
        nvcc = shutil.which("nvcc")
        why = "rebuild to get it" if nvcc else "nvcc was not found; install it and rebuild"
        lines.append(f"              no CUDA library: GPU tensors will not work ({why})")
    try:
        chosen = torch.ops.polygraph.instruction_set()
    except (AttributeError, RuntimeError) as error:
        return [*lines, f"instructions  unknown ({error})"], False
    held = os.environ.get("POLYGRAPH_ISA")
    note = f" (held back by POLYGRAPH_ISA={held})" if held else ""
    lines.append(f"instructions  {_set_name(chosen)}{note}")
    return lines, True


def _set_name(chosen: int | str) -> str:
    names = ("plain", "avx2", "avx512")
    return names[chosen] if isinstance(chosen, int) and 0 <= chosen < len(names) else str(chosen)


def _extras() -> list[str]:
    lines = []
    for extra, packages in EXTRAS.items():
        found = [f"{name} {version_of(name)}" for name in packages.values() if version_of(name)]
        missing = [name for name in packages.values() if not version_of(name)]
        text = ", ".join(found)
        if missing:
            text += "; " if found else ""
            text += f"missing {', '.join(missing)}: pip install 'polygraph-nn[{extra}]'"
        lines.append(f"extra {extra:7} {text}")
    return lines


def _places() -> list[str]:
    try:
        from polygraph.data.store import default_cache_dir

        cache = str(default_cache_dir())
    except ImportError as error:
        cache = f"unknown: {error}"
    return [f"cache         {cache}"]
