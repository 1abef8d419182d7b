"""The check of the kernels' machine code finds what it is there for."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("machine_code", ROOT / "scripts" / "machine_code.py")
machine_code = importlib.util.module_from_spec(spec)
sys.modules["machine_code"] = machine_code
spec.loader.exec_module(machine_code)

WHOLE = "@P0 STG.E.128 desc[UR4][R2.64], R8"
RESOURCES = """
Resource usage:
 Common:
  GLOBAL:274 CONSTANT[4]:320
 Function _Zkernel:
  REG:40 STACK:{stack} SHARED:1024 LOCAL:0 CONSTANT[0]:736 TEXTURE:0 SURFACE:0 SAMPLER:0
"""
CODE = """
Fatbin elf code:
	code for sm_90
		Function : _Zkernel
	.headerflags	@"EF_CUDA_SM90 EF_CUDA_VIRTUAL_SM(EF_CUDA_SM90)"
{lines}
        /*0ff0*/                   EXIT ;                      /* 0x000000000000794d */
                                                               /* 0x000fea0003800000 */
        /*1000*/                   NOP;                        /* 0x0000000000007918 */
                                                               /* 0x000fc00000000000 */
"""


def kernel(demangled, *instructions, stack=0):
    """A kernel of these instructions, as cuobjdump prints it."""
    lines = "\n".join(
        f"        /*{16 * i:04x}*/              {instruction} ;      /* 0x00000a00ff017b82 */\n"
        "                                                       /* 0x000e220000000800 */"
        for i, instruction in enumerate(instructions)
    )
    resources = RESOURCES.format(stack=stack).splitlines()
    (found,) = machine_code.read_kernels(resources, CODE.format(lines=lines).splitlines())
    found.name, found.arguments = machine_code.split_name(demangled)
    return found


def resample(elements, *instructions, stack=0):
    name = (
        f"void polygraph::(anonymous namespace)::resample_kernel<{elements}>(polygraph::P<float>)"
    )
    return kernel(name, *instructions, stack=stack)


def test_counts():
    """Every figure, from a kernel that has something of everything."""
    found = resample(
        "c10::Half, 8",
        "LDC R1, c[0x0][0x28]",
        WHOLE,
        "STG.E.64 desc[UR4][R2.64+0x8], R8",
        "@!P1 STG.E desc[UR4][R2.64], R8",
        "STG.E.U16.STRONG.SM desc[UR4][R2.64], R8",
        "ST.E.U8 desc[UR4][R2.64], R8",
        "STS.128 [R2], R8",
        "STL.64 [R1], R2",
        "LDL.LU R2, [R1]",
        stack=8,
    )
    assert found.family == "resample_kernel"
    assert found.ours
    assert found.arguments == ["c10::Half", "8"]
    assert (found.registers, found.local_bytes) == (40, 8)
    assert (found.local_loads, found.local_stores) == (1, 1)
    assert found.instructions == 10  # EXIT counts, NOP does not
    assert found.stores == {128: 1, 64: 1, 32: 1, 16: 1, 8: 1}
    line = machine_code.row(machine_code.label(found), [found])
    assert line.split() == "resample_kernel<Half, 8> 1 40 8 2 10 1 1 1 1 1".split()


@pytest.mark.parametrize(
    ("elements", "store"),
    [
        ("float, 4", WHOLE),
        ("c10::Half, 8", WHOLE),
        ("c10::Half, 4", "STG.E.64 desc[UR4][R2.64], R8"),
        ("float, 1", "STG.E desc[UR4][R2.64], R8"),
        ("double, 1", "STG.E.64 desc[UR4][R2.64], R8"),
    ],
)
def test_whole_packs_pass(elements, store):
    assert machine_code.faults([resample(elements, store)]) == []


@pytest.mark.parametrize(
    ("elements", "store", "wanted"),
    [
        ("float, 4", "STG.E desc[UR4][R2.64], R8", 128),
        ("float, 4", "STG.E.64 desc[UR4][R2.64], R8", 128),
        ("double, 2", "STG.E.64 desc[UR4][R2.64], R8", 128),
        ("c10::BFloat16, 8", "STG.E.U16 desc[UR4][R2.64], R8", 128),
        ("c10::Half, 4", "@P2 STG.E desc[UR4][R2.64], R8", 64),
    ],
)
def test_scalar_store_is_found(elements, store, wanted):
    """One planted store of a part of a pack, beside one that is whole."""
    (fault,) = machine_code.faults([resample(elements, WHOLE, store)])
    assert fault.startswith("resample_kernel<")
    assert f"stores packs of {wanted} bits in pieces: 1 x 128, 1 x " in fault


def test_pack_kernel_must_store():
    """A pack kernel in which no store is found is a sign that the check reads the wrong thing."""
    (fault,) = machine_code.faults([resample("float, 4", "LDC R1, c[0x0][0x28]")])
    assert "none" in fault


def test_kernels_that_store_elements_pass():
    name = "void polygraph::(anonymous namespace)::edge_dot_kernel<float, 4>(polygraph::P<float>)"
    assert machine_code.faults([kernel(name, "STG.E desc[UR4][R2.64], R8")]) == []


@pytest.mark.parametrize(("narrow", "faults"), [(4, 0), (5, 1)])
def test_ragged_tiles(narrow, faults):
    """A tile has one more branch for rows that are not whole groups: as many elements, no more."""
    tile = "polygraph::Tile<float, 128, 16, 4, 4>"
    name = f"void polygraph::spiral_conv_kernel<float, {tile}, 4>(polygraph::P<float>)"
    stores = [WHOLE, *["STG.E desc[UR4][R2.64], R8"] * narrow]
    assert len(machine_code.faults([kernel(name, *stores)])) == faults


@pytest.mark.parametrize(
    ("elements", "instructions", "stack", "message"),
    [
        ("float, 4", ["STL [R1], R2"], 8, "resample_kernel: local memory in 1 of its kernels"),
        (
            "float, 4",
            [],
            8,
            "resample_kernel<float, 4> uses 8 bytes of local memory, the limit is 0",
        ),
    ],
)
def test_spill_is_found(elements, instructions, stack, message):
    faults = machine_code.faults([resample(elements, WHOLE, *instructions, stack=stack)])
    assert any(message in fault for fault in faults)


def test_spill_within_limits_passes(monkeypatch):
    """One family may spill a little, and not a byte more; nor may more of its kernels."""
    monkeypatch.setitem(machine_code.LOCAL_MEMORY, "knn_list_kernel", (2, 16))
    name = "void polygraph::(anonymous namespace)::knn_list_kernel<double>(polygraph::P<double>)"
    allowed = kernel(name, "STL [R1], R2", stack=16)
    assert machine_code.faults([allowed] * 2) == []
    assert machine_code.faults([allowed] * 3)
    assert machine_code.faults([kernel(name, "STL [R1], R2", stack=24)])


def test_toolkit_kernels_have_no_limits():
    name = "void cub::detail::SortKernel<float, 4>(int)"
    assert machine_code.faults([kernel(name, "STG.E [R2], R8", "STL [R1], R2", stack=64)]) == []


def test_nothing_read_is_an_error():
    """A format that the patterns do not match must not pass."""
    with pytest.raises(SystemExit, match="no figures for any kernel"):
        machine_code.read_kernels([], [])
    with pytest.raises(SystemExit, match=r"no figures for .*_Zkernel"):
        machine_code.read_kernels(RESOURCES.format(stack=0).splitlines(), [])


def test_missing_tool_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(machine_code.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"cuobjdump is missing.*install nvidia-cuda-"):
        machine_code.disassemble(Path("library.so"), "sm_90")


def test_built_library(tmp_path):
    """The disassembler's real output is read whole: of one of the library's sources.

    `make cuda` reads all of them, and checks its limits, when it has built the library.
    """
    library = ROOT / "build" / "checked" / "lib" / "polygraph" / "_C_cuda.abi3.so"
    if not library.exists():
        pytest.skip("no CUDA library: `make cuda` builds it")
    if any(path.stat().st_mtime > library.stat().st_mtime for path in ROOT.glob("csrc/*/*.cu*")):
        pytest.skip("the CUDA library is older than its sources: `make cuda` builds it")
    try:
        cuobjdump, *_ = (machine_code.tool(n, "") for n in ("cuobjdump", "nvdisasm", "c++filt"))
    except SystemExit as error:
        pytest.skip(str(error))
    subprocess.run([cuobjdump, "-xelf", "all", library], cwd=tmp_path, check=True)
    sizes = {path.stat().st_size: path for path in tmp_path.iterdir()}
    kernels = machine_code.disassemble(sizes[max(s for s in sizes if s < 500_000)], "sm_90")
    assert len(kernels) > 20
    assert all(found.name and found.stores for found in kernels if found.ours)
    assert machine_code.faults(kernels) == []
