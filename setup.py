"""Builds the two extension libraries; everything else is in pyproject.toml.

POLYGRAPH_CUDA=auto|0|1: build the CUDA library where nvcc is (auto, the default), never, or always.
POLYGRAPH_SANITIZE=1: build with the address and undefined-behaviour sanitizers.
POLYGRAPH_WERROR=1: warnings are errors.
"""

from __future__ import annotations

import os
import platform
import shutil
from glob import glob
from pathlib import Path

from setuptools import setup

try:
    import torch
    from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension
except ImportError as error:
    raise SystemExit(
        "polygraph builds against torch, which is not installed: `pip install torch` first, then "
        "`pip install --no-build-isolation .`"
    ) from error

# The oldest torch whose stable ABI the libraries use: one build runs on every later one.
STABLE_ABI = ["-DTORCH_TARGET_VERSION=0x020a000000000000", "-DPy_LIMITED_API=0x030a0000"]
CUDA_ARCHITECTURES = ("75", "80", "86", "90", "100", "120")


def flag(name: str, choices: tuple[str, ...], default: str) -> str:
    """Reads an environment variable that has few values."""
    value = os.environ.get(name, default)
    if value not in choices:
        raise SystemExit(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    return value


def cxx_flags() -> list[str]:
    """Flags of the host compiler."""
    flags = ["-O3", "-std=c++20", "-fvisibility=hidden", "-Wall", "-Wextra", *STABLE_ABI]
    if platform.machine() == "x86_64":
        flags += ["-Wno-psabi"]  # vectors never cross a function that is not inlined
    if flag("POLYGRAPH_WERROR", ("0", "1"), "0") == "1":
        flags += ["-Werror"]
    if flag("POLYGRAPH_SANITIZE", ("0", "1"), "0") == "1":
        flags += ["-O1", "-g", "-fsanitize=address,undefined", "-fno-omit-frame-pointer"]
        flags += ["-fno-sanitize-recover=undefined"]
    return flags


def link_flags() -> list[str]:
    """Flags of the linker: libtorch alone, by name, so that any later torch can stand in."""
    if flag("POLYGRAPH_SANITIZE", ("0", "1"), "0") == "1":
        return ["-fsanitize=address,undefined"]
    return []


def nvcc() -> str | None:
    """The CUDA compiler, if there is one."""
    if CUDA_HOME is not None and (Path(CUDA_HOME) / "bin" / "nvcc").exists():
        return str(Path(CUDA_HOME) / "bin" / "nvcc")
    return shutil.which("nvcc")


def cpu_extension() -> CppExtension:
    """`polygraph._C`: schemas, checks and CPU kernels."""
    return CppExtension(
        "polygraph._C",
        sorted(glob("csrc/*/*.cpp")),
        include_dirs=[str(Path("csrc").resolve())],
        extra_compile_args=cxx_flags(),
        extra_link_args=link_flags(),
        py_limited_api=True,
        depends=sorted(glob("csrc/*/*.h") + glob("csrc/*/*.inc")),
    )


def setup_extensions() -> tuple[list, dict]:
    """The extensions to build and the command that builds them."""
    return [cpu_extension()], {"build_ext": BuildExtension}


extensions, commands = setup_extensions()
setup(ext_modules=extensions, cmdclass=commands)
