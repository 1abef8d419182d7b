"""Nearest codes by Hamming distance."""

import mmap

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.isa_worker import results_on
from torch._subclasses.fake_tensor import FakeTensorMode

from polygraph import ops, reference

KINDS = ("bits", torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32)


def codes(samples, *parts, seed=0, values=3):
    """Codes of parts (kind, entries): random, with few values, so that ties abound."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for kind, entries in parts:
        drawn = torch.randint(0, values, (samples, entries), generator=generator)
        if kind == "bits":
            found.append(ops.pack_bits(drawn > 0))
        else:  # also negative numbers, where there are
            lowest = 0 if kind in (torch.bool, torch.uint8) else -1
            found.append((drawn + lowest).to(kind))
    return found


def require_equal(found, wanted):
    for actual, expected in zip(found, wanted, strict=True):
        assert actual.dtype == expected.dtype == torch.int64
        assert torch.equal(actual, expected)


CASES = {
    "a word": (40, 7, 5, [("bits", 64)]),
    "a bit": (40, 3, 40, [("bits", 1)]),
    "vectors and a rest": (70, 9, 12, [("bits", 16 * 512 + 3 * 512 + 77)]),
    "more than a chunk": (37, 5, 37, [("bits", 2 * 65536 + 130)]),
    "several tiles": (1100, 20, 30, [("bits", 200), (torch.uint8, 40)]),
    "bytes, until a lane is full": (30, 4, 9, [(torch.uint8, 8192 + 127 * 16 + 5)]),
    "all kinds": (50, 6, 11, [(kind, 65 + 3 * i) for i, kind in enumerate(KINDS)]),
    "many queries": (20, 1030, 3, [(torch.int16, 3)]),
    "no entries": (6, 3, 4, [("bits", 0), (torch.int32, 0)]),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_the_definition(case):
    """Every kind of entry, whole vectors and what is left of them, k = N."""
    N, M, k, parts = CASES[case]
    x, y = codes(N, *parts), codes(M, *parts, seed=1)
    require_equal(ops.hamming_knn(x, k, y=y), reference.hamming_knn(x, k, y=y))
    few = [t[:20] for t in x]
    require_equal(ops.hamming_knn(few, 1), reference.hamming_knn(few, 1))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: str(kind).removeprefix("torch."))
def test_entries_that_differ_in_one_place(kind):
    """All but one are equal, wherever it lies: distances of 0 and 1, ties by index."""
    D = 150
    plain = torch.zeros(D + 1, D, dtype=torch.bool)
    plain[torch.arange(D), torch.arange(D)] = True
    x = ops.pack_bits(plain) if kind == "bits" else plain.to(kind)
    index, distance = ops.hamming_knn(x, D + 1, y=x[D:])
    assert index.tolist() == [[D, *range(D)]]
    assert distance.tolist() == [[0] + [1] * D]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: str(kind).removeprefix("torch."))
@pytest.mark.parametrize("D", [8128, 8192, 70001])
def test_entries_that_all_differ(kind, D):
    """As many as a code has: no counter is too narrow."""
    x = torch.zeros(2, D, dtype=torch.bool)
    x[1] = True
    x = ops.pack_bits(x) if kind == "bits" else x.to(kind)
    index, distance = ops.hamming_knn(x, 2)
    assert index.tolist() == [[0, 1], [1, 0]]
    assert distance.tolist() == [[0, D], [0, D]]


@pytest.mark.parametrize("kind", [torch.int16, torch.int32], ids=["int16", "int32"])
def test_entries_that_differ_in_several_bytes_count_once(kind):
    """Also where they differ in a high byte alone."""
    wide = torch.tensor([[0, 256, 257, -1]], dtype=kind)
    assert ops.hamming_knn(wide, 1, y=torch.zeros_like(wide))[1].item() == 3


@st.composite
def drawn_codes(draw):
    """Codes with a seed, of a few parts; duplicates of rows on purpose."""
    parts = draw(
        st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 90)), min_size=1, max_size=3)
    )
    N, M = draw(st.integers(1, 60)), draw(st.integers(0, 12))
    k, values = draw(st.integers(1, N)), draw(st.sampled_from([1, 2, 100]))
    x = codes(N, *parts, seed=draw(st.integers(0, 99)), values=values)
    rows = torch.randint(0, draw(st.integers(1, N)), (N,))
    y = codes(M, *parts, seed=1, values=values)
    if M:
        y = [torch.cat([b.view(a.dtype)[1:], a[:1]]) for a, b in zip(x, y, strict=True)]
    return [a[rows] for a in x], y, k


@given(drawn=drawn_codes())
def test_equals_brute_force(drawn):
    """Ties, k = N, queries that are in the bank, nothing to compare."""
    x, y, k = drawn
    require_equal(ops.hamming_knn(x, k, y=y), reference.hamming_knn(x, k, y=y))


def test_pads_with_zeros():
    """Bits of a word in their order, from the lowest; what follows them is 0."""
    x = torch.zeros(2, 70, dtype=torch.bool)
    x[0, [0, 63, 69]] = True
    x[1, 64] = True
    packed = ops.pack_bits(x)
    assert packed.dtype == torch.uint64
    assert packed.tolist() == [[1 + 2**63, 2**5], [0, 1]]
    assert torch.equal(ops.pack_bits(x.t().contiguous().t()), packed)
    assert ops.pack_bits(x[:, :0]).shape == (2, 0)
    assert ops.pack_bits(x[:0]).shape == (0, 2)
    assert ops.pack_bits(x[0]).shape == (2,)


def test_empty():
    """No queries of an empty bank are an empty list; a query of an empty bank is refused."""
    x = codes(0, ("bits", 70))[0]
    index, distance = ops.hamming_knn(x, 4, y=x)
    assert index.shape == distance.shape == (0, 4)
    with pytest.raises(RuntimeError, match="hamming_knn: x has 0 codes, k is 1"):
        ops.hamming_knn(x, 1, y=codes(2, ("bits", 70)))


def test_rows_apart_and_entries_apart():
    """Slices of columns, reversed rows by index, transposed and expanded codes."""
    (x,) = codes(30, (torch.uint8, 40))
    y = x[::7]
    wanted = ops.hamming_knn(x[:, 5:21].clone(), 9, y=y[:, 5:21].clone())
    require_equal(ops.hamming_knn(x[:, 5:21], 9, y=y[:, 5:21]), wanted)
    apart = x.t().contiguous().t()
    require_equal(ops.hamming_knn(apart[:, 5:21], 9, y=apart[::7, 5:21]), wanted)
    same = x[:1].expand(30, -1)
    require_equal(ops.hamming_knn(same, 3, y=y), ops.hamming_knn(same.clone(), 3, y=y))


def test_a_file_is_searched_in_place(tmp_path):
    """A bank that is mapped, and not copied: its pages stay what the file has."""
    (x,) = codes(64, ("bits", 8 * mmap.PAGESIZE))
    path = tmp_path / "bank"
    path.write_bytes(x.numpy().tobytes())
    bank = torch.from_file(str(path), size=x.numel() * 8, dtype=torch.uint8)
    bank = bank.view(torch.uint64).view(x.shape)
    require_equal(ops.hamming_knn(bank, 9, y=x[:5]), ops.hamming_knn(x, 9, y=x[:5]))


def sets_of_cases():
    """Results of all cases, for a process held to lesser instructions."""
    found = {"instruction set": torch.tensor(torch.ops.polygraph.instruction_set())}
    for name, (N, M, k, parts) in CASES.items():
        index, distance = ops.hamming_knn(codes(N, *parts), k, y=codes(M, *parts, seed=1))
        found[name] = torch.stack([index, distance])
    return found


@pytest.mark.parametrize("isa", ["plain", "avx2"])
def test_other_instruction_sets(isa, tmp_path):
    """The same lists."""
    wanted = ["plain", "avx2"].index(isa)
    if torch.ops.polygraph.instruction_set() < wanted:
        pytest.skip(f"this processor has no {isa}")
    found = results_on(isa, __file__, "sets_of_cases", tmp_path / "results.pt")
    assert int(found.pop("instruction set")) == wanted
    expected = sets_of_cases()
    for name, actual in found.items():
        assert torch.equal(actual, expected[name]), name


def test_any_number_of_threads(set_threads):
    """Which thread takes which tile does not matter."""
    parts = [("bits", 3000), (torch.uint8, 50)]
    x, y = codes(3000, *parts), codes(40, *parts, seed=1)
    set_threads(1)
    wanted = ops.hamming_knn(x, 200, y=y)
    for threads in (2, 3):
        set_threads(threads)
        require_equal(ops.hamming_knn(x, 200, y=y), wanted)


def test_opcheck():
    """Schema, fake, and tracing with dynamic shapes."""
    parts = [("bits", 70), (torch.int16, 5)]
    op = torch.ops.polygraph.hamming_knn.default
    torch.library.opcheck(op, (codes(9, *parts), codes(4, *parts, seed=1), 3))


@pytest.mark.parametrize("kind", ["meta", "fake"])
def test_shapes_alone(kind):
    """Without memory."""
    x = codes(9, (torch.uint8, 7))[0]
    mode = FakeTensorMode()
    there = x.to("meta") if kind == "meta" else mode.from_tensor(x)
    index, distance = ops.hamming_knn(there, 3, y=there[:4])
    assert index.shape == distance.shape == (4, 3)
    assert index.dtype == distance.dtype == torch.int64


def test_on_a_gpu():
    """There is no kernel; the message says what to write."""
    with FakeTensorMode():
        x = torch.empty(3, 2, dtype=torch.uint8, device="cuda")
        with pytest.raises(NotImplementedError, match=r"^hamming_knn: .* CPU alone: x.cpu\(\)"):
            ops.hamming_knn(x, 1)


def test_compiles_without_graph_break():
    """No shape depends on a value."""
    (x,) = codes(20, (torch.uint8, 7))
    torch.compiler.reset()
    compiled = torch.compile(ops.hamming_knn, fullgraph=True, backend="aot_eager")
    require_equal(compiled(x, 3), ops.hamming_knn(x, 3))


BITS, BYTES = codes(6, ("bits", 70), (torch.uint8, 5))


@pytest.mark.parametrize(
    ("call", "exception", "message"),
    [
        (lambda: ops.hamming_knn(BITS, 7), RuntimeError, "x has 6 codes, k is 7"),
        (lambda: ops.hamming_knn(BITS, 0), RuntimeError, "k must be at least 1, got 0"),
        (lambda: ops.hamming_knn([], 1), ValueError, "x must hold at least one tensor"),
        (
            lambda: ops.hamming_knn([BITS, BYTES], 1, y=BITS),
            RuntimeError,
            "y must hold as many tensors as x, got 1 and 2",
        ),
        (
            lambda: ops.hamming_knn(BITS.view(torch.int64), 1),
            RuntimeError,
            r"x must be uint64 \(truth values.* or int32 \(entries\), got int64",
        ),
        (lambda: ops.hamming_knn(BYTES.float(), 1), RuntimeError, "x must be .*, got float32"),
        (
            lambda: ops.hamming_knn(BYTES, 1, y=BYTES.to(torch.int16)),
            RuntimeError,
            "y must have the dtype of x, uint8, got int16",
        ),
        (
            lambda: ops.hamming_knn(BYTES[0], 1),
            RuntimeError,
            r"x must have shape \[N, W\] = \[\*, \*\], got \[5\]",
        ),
        (
            lambda: ops.hamming_knn([BITS, BYTES[:5]], 1),
            RuntimeError,
            r"x must have shape \[N, W\] = \[6, \*\], got \[5, 5\]",
        ),
        (
            lambda: ops.hamming_knn(BYTES, 1, y=BYTES[:, :4]),
            RuntimeError,
            r"y must have shape \[M, W\] = \[\*, 5\], got \[6, 4\]",
        ),
        (
            lambda: ops.hamming_knn([BITS, BYTES], 1, y=[BITS, BYTES[:2]]),
            RuntimeError,
            r"y must have shape \[M, W\] = \[6, 5\], got \[2, 5\]",
        ),
        (
            lambda: ops.hamming_knn(torch.empty(0, 2**25, dtype=torch.uint64), 1),
            RuntimeError,
            "at most 2\\^31 - 1 entries, got 2147483648",
        ),
        (
            lambda: ops.hamming_knn(BITS.numpy(), 1),
            TypeError,
            r"x must be a torch.Tensor, got a NumPy array: torch.from_numpy\(x\)",
        ),
        (
            lambda: ops.hamming_knn([BITS], 1, y=[None]),
            TypeError,
            "y must be a torch.Tensor, got NoneType",
        ),
    ],
)
def test_bad_arguments(call, exception, message):
    """Refused with what was wanted and what was got."""
    with pytest.raises(exception, match=f"^hamming_knn: .*{message}"):
        call()


@pytest.mark.parametrize(
    ("x", "exception", "message"),
    [
        (torch.ones(3), TypeError, "x must be bool, got torch.float32"),
        (torch.tensor(True), ValueError, r"x must have shape \[..., D\], got \[\]"),
        ([True], TypeError, "x must be a torch.Tensor, got a list"),
    ],
)
def test_what_is_not_packed(x, exception, message):
    """Refused with what was wanted and what was got."""
    with pytest.raises(exception, match=f"^pack_bits: {message}"):
        ops.pack_bits(x)
