"""Counts what nvcc made of the CUDA kernels, and fails where it is worse than it should be.

    python scripts/machine_code.py build/checked/lib/polygraph/_C_cuda.abi3.so --table kernels.txt

Prints a line for each family of kernels, and writes one for each kernel to `--table`: registers,
bytes of local memory and the instructions that reach it (spilled registers), instructions in all,
and stores to global memory by their width in bits. Two limits are checked (`faults`): packs are
stored whole, and local memory stays within `LOCAL_MEMORY`. Needs cuobjdump and nvdisasm (of the
CUDA toolkit, or `pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm`) and c++filt (of
binutils), but no GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

# A kernel's first template argument is the type of its elements, the second how many of them a
# pack has (kVec), or the Tile of results that a block computes.
ELEMENT_BYTES = {"double": 8, "float": 4, "c10::Half": 2, "c10::BFloat16": 2}
PACK_BITS = 128

# Kernels that read packs, or whose second argument is not kVec, and store single elements.
STORE_ELEMENTS = {
    "edge_dot_kernel",  # one number for each edge
    "knn_join_kernel",  # lists of neighbours, each at its own place
    "poly_step_backward_sums_kernel",  # one row for each thousand rows that it reads
    "poly_step_squares_kernel",  # likewise
    "resample_backward_weight_kernel",  # one number for each table entry
    "spiral_conv_backward_weight_kernel",  # a share's partial sums, along the other dimension
}

# Stores of other numbers than packs of elements: the segment that a piece is of; where maxima lie,
# in pairs of int32 for pairs of float64.
OTHER_STORES = {
    "edge_max_backward_kernel": 1,
    "edge_max_kernel": 3,
    "edge_sum_kernel": 1,
    "edge_values_kernel": 1,
}

# Kernels that may use local memory, which is registers that were spilled: how many of each family,
# and bytes each. Every other kernel has none.
LOCAL_MEMORY: dict[str, tuple[int, int]] = {}

WIDTHS = (128, 64, 32, 16, 8)
FUNCTION = re.compile(r"^\s*Function\s*:?\s*([^\s:]+)")
INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@\S+\s+)?([A-Z][A-Z0-9_.]*)")
RESOURCES = re.compile(r"\bREG:(\d+) STACK:(\d+) .*?\bLOCAL:(\d+)")


@dataclass
class Kernel:
    """What the machine code of one kernel holds.

    Attributes:
        symbol: mangled name.
        name: name with namespaces, without template arguments.
        arguments: template arguments.
        registers: of a thread.
        local_bytes: local memory of a thread.
        instructions: all but the padding.
        local_loads: instructions that read local memory.
        local_stores: instructions that write it.
        stores: stores to global memory by their width in bits.
    """

    symbol: str
    name: str = ""
    arguments: list[str] = field(default_factory=list)
    registers: int = 0
    local_bytes: int = 0
    instructions: int = 0
    local_loads: int = 0
    local_stores: int = 0
    stores: Counter[int] = field(default_factory=Counter)

    @property
    def family(self) -> str:
        """The name without namespaces, which all instances of a template share."""
        return self.name.rpartition("::")[2]

    @property
    def ours(self) -> bool:
        """Whether the kernel is not one of the toolkit's libraries."""
        return self.name.startswith("polygraph::")


def store_width(opcode: str) -> int | None:
    """Bits that an instruction stores to global (or any) memory; none for other instructions."""
    kind, *modifiers = opcode.split(".")
    if kind not in ("STG", "ST"):
        return None
    widths = {"128": 128, "64": 64, "U16": 16, "S16": 16, "U8": 8, "S8": 8}
    return next((widths[word] for word in modifiers if word in widths), 32)


def split_name(demangled: str) -> tuple[str, list[str]]:
    """Take `void a::b<X, Y<1, 2>>(c)` apart: `a::b` and its template arguments."""
    text = demangled.replace("(anonymous namespace)::", "").removeprefix("void ")
    name, opened, rest = text.partition("<")
    if not opened:
        return text.partition("(")[0], []
    arguments, depth = [""], 0
    for letter in rest:
        depth += (letter in "<(") - (letter in ">)")
        if depth < 0:
            break
        if letter == "," and depth == 0:
            arguments.append("")
        else:
            arguments[-1] += letter
    return name, [argument.strip() for argument in arguments]


def read_kernels(resources: Iterable[str], code: Iterable[str]) -> list[Kernel]:
    """Read the output of `cuobjdump -res-usage` and of `cuobjdump -sass`; names stay mangled."""
    kernels: dict[str, Kernel] = {}
    kernel = Kernel("")
    for line in resources:
        if found := FUNCTION.match(line):
            kernel = kernels.setdefault(found[1], Kernel(found[1]))
        elif found := RESOURCES.search(line):
            kernel.registers = int(found[1])
            kernel.local_bytes = int(found[2]) + int(found[3])
    for line in code:
        if found := INSTRUCTION.match(line):
            opcode = found[1]
            kernel.instructions += opcode != "NOP"
            kernel.local_loads += opcode.startswith("LDL")
            kernel.local_stores += opcode.startswith("STL")
            if (width := store_width(opcode)) is not None:
                kernel.stores[width] += 1
        elif found := FUNCTION.match(line):
            kernel = kernels.setdefault(found[1], Kernel(found[1]))
    unread = [k.symbol for k in kernels.values() if not (k.registers and k.instructions)]
    if unread or not kernels:
        raise SystemExit(f"machine_code: cuobjdump gave no figures for {unread or 'any kernel'}")
    return list(kernels.values())


def tool(name: str, package: str) -> str:
    """Path of a command; `package` brings it."""
    found = shutil.which(name)
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        found = found or next(map(str, sorted(Path(folder).glob(f"*/bin/{name}"))), None)
    if found is None:
        raise SystemExit(f"machine_code: {name} is missing: it comes with {package}")
    return found


def disassemble(library: Path, architecture: str) -> list[Kernel]:
    """Read the kernels of a built library."""
    command = [tool("cuobjdump", "`pip install nvidia-cuda-cuobjdump`"), "-arch", architecture]
    disassembler = Path(
        tool("nvdisasm", "`pip install nvidia-cuda-nvdisasm`")
    )  # cuobjdump calls it
    environment = os.environ | {"NVDISASM_PATH": str(disassembler.parent)}

    def dump(what: str) -> Iterator[str]:
        with subprocess.Popen(
            [*command, what, str(library)], stdout=subprocess.PIPE, text=True, env=environment
        ) as done:
            assert done.stdout is not None
            yield from done.stdout
        if done.returncode:
            raise SystemExit(f"machine_code: cuobjdump {what} failed on {library}")

    kernels = read_kernels(dump("-res-usage"), dump("-sass"))
    names = "\n".join(kernel.symbol for kernel in kernels)
    done = subprocess.run(
        [tool("c++filt", "binutils")], input=names, capture_output=True, text=True, check=True
    )
    for kernel, name in zip(kernels, done.stdout.splitlines(), strict=True):
        kernel.name, kernel.arguments = split_name(name)
    return kernels


def pack_fault(kernel: Kernel) -> str | None:
    """Say what is wrong with the stores of a kernel that should store whole packs."""
    if kernel.family in STORE_ELEMENTS or len(kernel.arguments) < 2:
        return None
    size = ELEMENT_BYTES.get(kernel.arguments[0])
    if size is None:
        return None
    allowed, others = 0, OTHER_STORES.get(kernel.family, 0)
    if re.fullmatch(r"\d+", kernel.arguments[1]):
        lanes = int(kernel.arguments[1])
    elif found := re.fullmatch(r"polygraph::Tile<\S+, \d+, \d+, \d+, (\d+)>", kernel.arguments[1]):
        # A group of neighbouring results; where rows do not consist of whole groups, another branch
        # stores them one by one.
        lanes = min(int(found[1]), 16 // max(size, 4))
        allowed = lanes
    else:
        return None
    bits = min(PACK_BITS, 8 * size * lanes)
    whole = sum(count for width, count in kernel.stores.items() if width >= bits)
    narrow = kernel.stores.total() - whole
    if lanes == 1 or (whole and narrow <= allowed * whole + others):
        return None
    return f"stores packs of {bits} bits in pieces: {stores_text(kernel.stores)}"


def faults(kernels: list[Kernel]) -> list[str]:
    """Say which of our kernels break a limit."""
    found = []
    for kernel in kernels:
        if kernel.ours and (fault := pack_fault(kernel)):
            found.append(f"{label(kernel)} {fault}")
    for members in families(kernels).values():
        family = members[0].family
        spilled = [kernel for kernel in members if kernel.ours and kernel.local_bytes]
        number, limit = LOCAL_MEMORY.get(family, (0, 0))
        if len(spilled) > number:
            found.append(
                f"{family}: local memory in {len(spilled)} of its kernels, the limit is {number}"
            )
        for kernel in spilled:
            if kernel.local_bytes > limit:
                found.append(
                    f"{label(kernel)} uses {kernel.local_bytes} bytes of local memory, "
                    f"the limit is {limit}"
                )
    return found


def families(kernels: list[Kernel]) -> dict[str, list[Kernel]]:
    """Group kernels by their name, in alphabetical order."""
    groups: dict[str, list[Kernel]] = {}
    for kernel in sorted(kernels, key=lambda kernel: (kernel.name, kernel.arguments)):
        groups.setdefault(kernel.name, []).append(kernel)
    return groups


def label(kernel: Kernel) -> str:
    """The name for people."""
    arguments = ", ".join(kernel.arguments)
    for namespace in ("polygraph::", "c10::"):
        arguments = arguments.replace(namespace, "")
    return f"{kernel.family}<{arguments}>" if arguments else kernel.family


def stores_text(stores: Counter[int]) -> str:
    """Stores by width, widest first."""
    return ", ".join(f"{stores[width]} x {width}" for width in WIDTHS if stores[width]) or "none"


def row(name: str, members: list[Kernel]) -> str:
    """A line of the table: the largest figures of some kernels, and all of their stores."""

    def largest(figure: str) -> str:
        values = {getattr(member, figure) for member in members}
        return str(max(values)) if len(values) == 1 else f"{min(values)}-{max(values)}"

    stores = sum((member.stores for member in members), Counter())
    spills = sum(member.local_loads + member.local_stores for member in members)
    columns = [len(members), largest("registers"), largest("local_bytes"), spills]
    columns += [largest("instructions"), *(stores[width] for width in WIDTHS)]
    sizes = (4, 9, 7, 7, 12, 5, 5, 5, 5, 5)
    cells = (f"{cell!s:>{size}}" for cell, size in zip(columns, sizes, strict=True))
    return f"{name:40} {' '.join(cells)}"


HEAD = (
    "                                           no registers  local  spills instructions"
    "  global stores of 128, 64, 32, 16, 8 bits"
)


def main() -> None:
    """Print the table, check the limits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", type=Path, help="the built CUDA library")
    parser.add_argument("--arch", default="sm_90", help="the architecture (default: sm_90)")
    parser.add_argument("--table", type=Path, help="file for a line for each kernel")
    arguments = parser.parse_args()
    kernels = disassemble(arguments.library, arguments.arch)
    groups = families(kernels)
    print(f"{len(kernels)} kernels for {arguments.arch}\n{HEAD}")
    for name, members in groups.items():
        print(row(name.rpartition("::")[2][:40], members))
    if arguments.table:
        lines = [row(label(kernel), [kernel]) for group in groups.values() for kernel in group]
        arguments.table.write_text("\n".join([HEAD, *lines]) + "\n")
    found = faults(kernels)
    for fault in found:
        print(f"machine_code: {fault}", file=sys.stderr)
    if found:
        raise SystemExit(1)
    print("packs are stored whole, local memory is within its limits")


if __name__ == "__main__":
    main()
