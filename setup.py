"""Builds the two extension libraries; everything else is in pyproject.toml.

POLYGRAPH_CUDA=auto|0|1|only  the CUDA library: where nvcc is and torch has CUDA (auto, which is the
                              default), never, always, or without the CPU's
POLYGRAPH_CUDA_ARCHS=80;90    compute capabilities; PTX of the last serves newer devices
POLYGRAPH_DEBUG=1             symbols and few optimisations, for a debugger (the CPU's library)
POLYGRAPH_SANITIZE=1          build with the address and undefined-behaviour sanitizers
POLYGRAPH_WERROR=1            warnings are errors
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext as BuildExtension

ROOT = Path(__file__).parent.resolve()
sys.path.insert(0, str(ROOT / "scripts"))
from build_backend import check_tools, index_description, refuse, show_torch  # noqa: E402  the path comes first

# An sdist, a version or a name can be had without torch and without a compiler.
COMPILES = not {"sdist", "egg_info", "dist_info", "--version", "--name"} & set(sys.argv)
if COMPILES:
    show_torch()
    COMPILER = check_tools()
    try:
        import torch
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except Exception as error:  # a broken torch can fail with anything, OSError included
        refuse(f"it builds against torch, which does not import: {type(error).__name__}: {error}.")
    TORCH = Path(torch.__file__).parent

# The oldest torch whose stable ABI the libraries use: one build runs on every later one.
STABLE_ABI = ["-DTORCH_TARGET_VERSION=0x020a000000000000"]
INCLUDE = str(ROOT / "csrc")
HEADERS = sorted(glob("csrc/*/*.h") + glob("csrc/*/*.inc") + glob("csrc/*/*.cuh"))


def switch(name: str, choices: tuple[str, ...], default: str) -> str:
    """Read an environment variable that has few values."""
    value = os.environ.get(name, default)
    if value not in choices:
        refuse(f"{name} must be one of {', '.join(choices)}, got {value!r}.")
    return value


WERROR = switch("POLYGRAPH_WERROR", ("0", "1"), "0") == "1"
SANITIZE = switch("POLYGRAPH_SANITIZE", ("0", "1"), "0") == "1"
DEBUG = switch("POLYGRAPH_DEBUG", ("0", "1"), "0") == "1"
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"] if SANITIZE else []


def without_paths(**folders: Path) -> list[str]:
    """Flags by which `__FILE__` names no folder of this machine: messages and assertions have it.

    A folder is left out, or replaced by its name here. Of several that match the last one counts:
    torch may be installed within this folder.
    """
    places = {folder: f"{name}/" for name, folder in folders.items()}
    places |= {ROOT: "", Path(os.path.abspath(__file__)).parent: "", TORCH / "include": ""}
    return [f"-ffile-prefix-map={folder}/={name}" for folder, name in places.items()]


def cpu_extension() -> Extension:
    """`polygraph._C`: schemas, checks and CPU kernels."""
    flags = ["-O1", "-g", "-fno-omit-frame-pointer"] if SANITIZE or DEBUG else ["-O3", "-g0"]
    flags += ["-std=c++20", "-fvisibility=hidden", "-Wall", "-Wextra", *STABLE_ABI, *SANITIZERS]
    flags += without_paths()
    if platform.machine() == "x86_64":
        flags += ["-Wno-psabi"]  # vectors never cross a function that is not inlined
    if WERROR:
        flags += ["-Werror"]
    return CppExtension(
        "polygraph._C",
        sorted(glob("csrc/*/*.cpp")),
        include_dirs=[INCLUDE],
        extra_compile_args=flags,
        extra_link_args=["-Wl,--no-as-needed", *SANITIZERS],
        py_limited_api=True,
        depends=HEADERS,
    )


NOWHERE = "neither in $CUDA_HOME/bin nor on the PATH nor in /usr/local/cuda/bin"


def find_nvcc() -> str | None:
    """The CUDA compiler, where one is installed."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    candidates = [Path(home) / "bin" / "nvcc"] if home else []
    candidates += [Path(found) for found in [shutil.which("nvcc")] if found]
    candidates += [Path("/usr/local/cuda/bin/nvcc")]
    return next((str(candidate) for candidate in candidates if candidate.exists()), None)


def choose_nvcc() -> tuple[str | None, str]:
    """The CUDA compiler if it is to be used, and what is done, in words."""
    wanted = switch("POLYGRAPH_CUDA", ("auto", "0", "1", "only"), "auto")
    if wanted == "0":
        return None, "no CUDA library: POLYGRAPH_CUDA=0"
    if wanted == "auto" and torch.version.cuda is None:
        # It could not load the library, and compiling takes minutes.
        return None, "no CUDA library: this torch has no CUDA; POLYGRAPH_CUDA=1 builds it anyway"
    found = find_nvcc()
    if found is None and wanted != "auto":
        refuse(f"POLYGRAPH_CUDA={wanted}, but nvcc was found {NOWHERE}.")
    if found is None:
        has = f"though torch has CUDA {torch.version.cuda}"
        return None, f"no CUDA library, {has}: nvcc was found {NOWHERE}; GPU tensors will not work"
    archs = ", ".join(f"sm_{arch}" for arch in architectures())
    return found, f"the CUDA library for {archs} with {found}, which takes minutes"


def architectures() -> list[str]:
    """Compute capabilities to compile for."""
    return os.environ.get("POLYGRAPH_CUDA_ARCHS", "75;80;90").replace(".", "").split(";")


def architecture_flags() -> list[str]:
    """Code generation flags of nvcc."""
    archs = architectures()
    flags = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
    return [*flags, f"-gencode=arch=compute_{archs[-1]},code=compute_{archs[-1]}"]


class BuildLibraries(BuildExtension):
    """Builds `_C` as torch does, and `_C_cuda` with nvcc alone.

    torch's own CUDA build links libraries that a CPU build of torch lacks; the stable ABI needs
    libtorch by name only, so the CUDA library builds wherever nvcc is.
    """

    def build_extension(self, ext: Extension) -> None:
        """Build one library."""
        if not ext.name.endswith("_cuda"):
            super().build_extension(ext)
            return
        compiler = NVCC
        target = Path(self.get_ext_fullpath(ext.name))
        objects = Path(self.build_temp) / "_".join(["cuda", *architectures()])
        objects.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        host = ["-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", *["-Werror"] * WERROR]
        host += without_paths(cuda=Path(compiler).resolve().parents[1])
        flags = ["-std=c++20", "-O3", "-Xcompiler", ",".join(host), "-DUSE_CUDA", *STABLE_ABI]
        flags += [f"-I{INCLUDE}", "-isystem", str(TORCH / "include"), *architecture_flags()]
        if WERROR:
            flags += ["-Werror", "all-warnings"]  # of nvcc itself, about the device code

        def compile_one(source: str) -> str:
            output = objects / f"{Path(source).stem}.o"
            newest = max(Path(f).stat().st_mtime for f in (source, __file__, *HEADERS))
            if not output.exists() or output.stat().st_mtime < newest:
                subprocess.run([compiler, *flags, "-c", source, "-o", str(output)], check=True)
            return str(output)

        with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))) as pool:
            outputs = list(pool.map(compile_one, ext.depends))
        # No kernel calls another source's, so the device code is not linked: that would note paths.
        link = ["-shared", "-cudart", "static", "--no-device-link", f"-L{TORCH / 'lib'}"]
        link += ["-Xlinker", "--no-as-needed"]
        subprocess.run(
            [compiler, *link, "-ltorch", "-lc10", *outputs, "-o", str(target)], check=True
        )


extensions = []
if COMPILES:
    NVCC, cuda = choose_nvcc()
    if os.environ.get("POLYGRAPH_CUDA") != "only":
        extensions.append(cpu_extension())
        cuda = f"the CPU's library with {COMPILER}; {cuda}"
    if NVCC is not None:
        # Not as sources: torch would look for its own CUDA, which a CPU build of torch lacks.
        sources = sorted(glob("csrc/*/*.cu"))
        extensions.append(Extension("polygraph._C_cuda", [], depends=sources, py_limited_api=True))
    if "--quiet" not in sys.argv:
        print(f"polygraph: builds against torch {torch.__version__}: {cuda}", flush=True)
setup(
    long_description=index_description((ROOT / "README.md").read_text()),
    long_description_content_type="text/markdown; charset=UTF-8",
    ext_modules=extensions,
    cmdclass={"build_ext": BuildLibraries},
    # Neither library uses CPython's API or torch's unstable one: one wheel for all of them.
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
