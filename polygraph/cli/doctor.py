"""Print what was found: torch, threads, CUDA, instruction set, extras.

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
from polygraph import _threads
from polygraph.cli.parser import Parser

DISTRIBUTION = "polygraph-nn"  # its name on the package index, where `polygraph` is another's
# What every installation has beside torch: names on the package index.
CORE = ("torch_geometric", "numpy", "safetensors")
# What each extra brings: names to import -> names on the package index.
EXTRAS = {
    "mesh": {"scipy": "scipy", "h5py": "h5py"},
    "audio": {"scipy": "scipy", "soundfile": "soundfile"},
    "train": {
        "lightning_fabric": "lightning-fabric",
        "jsonargparse": "jsonargparse",
        "tqdm": "tqdm",
        "tensorboard": "tensorboard",
        "torchmetrics": "torchmetrics",
        "PIL": "pillow",
    },
    "images": {"skimage": "scikit-image", "pywt": "pywavelets"},
    "report": {"matplotlib": "matplotlib", "plotly": "plotly"},
    "verify": {"pytorch_metric_learning": "pytorch-metric-learning"},
    "open3d": {"open3d": "open3d"},
}


def run(arguments: Sequence[str]) -> int:
    """Do what the words after the command ask for; returns the exit status."""
    description = (__doc__ or "").splitlines()[0]
    Parser(prog="polygraph doctor", description=description).parse_args(arguments)
    lines, working = report()
    result = "what is needed works" if working else "something that is needed does not work"
    print("\n".join([*lines, f"result        {result}"]))
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
        *_others(),
        f"python        {platform.python_version()} on {platform.system()} {platform.machine()}",
    ]
    core, complete = _core()
    try:
        import torch
    except Exception as error:  # a broken torch can fail with anything, OSError included
        lines.append(f"torch         does not import: {type(error).__name__}: {error}")
        lines.append("              pip install 'torch>=2.10', then install polygraph-nn again")
        return lines + core + _extras(), False
    lines.append(f"torch         {torch.__version__}")
    lines += _threads_and_waiting(torch.get_num_threads()) + _cuda()
    loaded, working = _libraries()
    return lines + loaded + core + _extras() + _places(), working and complete


def _others() -> list[str]:
    """Other distributions that install a package `polygraph`, and another version of ours."""
    from importlib.metadata import packages_distributions

    lines = []
    owners = packages_distributions().get("polygraph", [])
    for name in sorted({owner.lower().replace("_", "-") for owner in owners} - {DISTRIBUTION}):
        lines += [
            f"              {name} {version_of(name)} installs a package `polygraph`, too: "
            "each overwrites the other;",
            f"              pip uninstall {name}, then install {DISTRIBUTION} again",
        ]
    installed = version_of(DISTRIBUTION)
    if installed not in (None, polygraph.__version__):
        lines.append(f"              installed is {installed}: this folder comes first on the path")
    return lines


def _core() -> tuple[list[str], bool]:
    """Versions of what every installation has, and whether nothing is missing."""
    found = {name: version_of(name) for name in CORE}
    lines = [f"needs         {', '.join(f'{name} {found[name]}' for name in CORE if found[name])}"]
    missing = " ".join(name for name in CORE if found[name] is None)
    if missing:
        lines.append(f"              missing {missing}: pip install {missing}")
    return lines, not missing


def _threads_and_waiting(number: int) -> list[str]:
    """Threads and processors, and how threads wait for each other."""
    share = _threads.container_processors()
    limit = "" if share is None else f", of which this container has the time of {share:g}"
    line = f"threads       {number} on {_threads.processors()} processors{limit}"
    if hasattr(os, "getloadavg"):
        line += f"; load {os.getloadavg()[0]:.1f}"
    lines = [line]
    if share is not None and number > max(1, share):
        lines.append(
            f"              more than there is time for: export OMP_NUM_THREADS={share:.0f}"
        )
    policy, runtimes = _threads.wait_policy(), _threads.openmp_runtimes()
    text = policy or f"the default of {', '.join(runtimes) or 'this OpenMP library'}"
    advice = f"export GOMP_SPINCOUNT={_threads.SPINS}, before torch is imported"
    if policy == f"GOMP_SPINCOUNT={_threads.SPINS}":
        text += f"; the same for Python programs: {advice}"
    elif policy is None or "active" in policy or "infinity" in policy:
        text += f": several times slower beside busy processes; {advice}"
    lines.append(f"waiting       {text}")
    if any(not name.startswith("libgomp") for name in runtimes):
        lines.append("              Intel's and LLVM's OpenMP: export KMP_BLOCKTIME=1")
    if len(runtimes) > 1:
        lines.append(f"              {' and '.join(runtimes)} have threads each, which compete")
    return lines


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

    from polygraph._load import REBUILD, find_library, load_libraries

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
        nvcc = "" if shutil.which("nvcc") else "install nvcc (the CUDA toolkit), then "
        lines.append(f"              no CUDA library: GPU tensors will not work; {nvcc}{REBUILD}")
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
            text += f"missing {', '.join(missing)}: pip install '{DISTRIBUTION}[{extra}]'"
        lines.append(f"extra {extra:7} {text}")
    return lines


def _places() -> list[str]:
    try:
        from polygraph.data.store import default_cache_dir

        cache = str(default_cache_dir())
    except ImportError as error:
        cache = f"unknown: {error}"
    return [f"cache         {cache}"]
