"""Packed codes of networks."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from polygraph.analysis import (
    PackedCodes,
    RegionCounts,
    code_neighbors,
    pack_codes,
    partition_distance,
    region_counts,
)

SITES = ("1:relu", "2:pool", "4:max", "5:knn")


def drawn(samples, seed=0):
    """Codes as a network makes them: truth values, places in windows and clouds, lists."""
    g = torch.Generator().manual_seed(seed)
    return {
        "1:relu": torch.rand(samples, 4, 5, 5, generator=g) > 0.5,
        "2:pool": torch.randint(0, 200, (samples, 4, 2), generator=g),
        "4:max": torch.randint(-1, 900, (samples, 7), generator=g, dtype=torch.int32),
        "5:knn": torch.randint(0, 70000, (samples, 6, 2), generator=g),
    }


def shares(a, b, sites=SITES):
    """``[A, B]``: the share of entries that differ, by definition."""
    rows = [(a[n].flatten(1), b[n].flatten(1)) for n in sites]
    apart = sum((x[:, None] != y).sum(-1) for x, y in rows)
    return apart.double() / sum(x.shape[1] for x, _ in rows)


def test_packs_each_site_as_narrow_as_its_values():
    """Bits, bytes and wider numbers; every value is kept."""
    codes = drawn(9)
    packed = pack_codes(codes)
    dtypes = (torch.uint64, torch.uint8, torch.int16, torch.int32)
    assert [t.dtype for t in packed.sites.values()] == list(dtypes)
    assert packed.entries == {"1:relu": 100, "2:pool": 8, "4:max": 7, "5:knn": 12}
    for name in SITES[1:]:
        assert torch.equal(packed.sites[name].long(), codes[name].flatten(1).long())
    assert (len(packed), packed.num_entries) == (9, 127)


@pytest.mark.parametrize("sites", [None, SITES[:1], (SITES[3], SITES[1])], ids=["all", "1", "2"])
def test_distances_and_neighbours_are_those_of_the_codes(sites):
    """Equation 15, and lists sorted by it, ties by index."""
    a, b = drawn(20), drawn(6, seed=1)
    b = {n: torch.cat([t, a[n][::7]]) for n, t in b.items()}
    wanted = shares(b, a, sites or SITES)
    bank, query = pack_codes(a), pack_codes(b)
    index, distance = code_neighbors(query, bank, 20, sites)
    order = wanted.sort(dim=1, stable=True)
    assert torch.equal(index, order.indices)
    assert torch.equal(distance, order.values)
    pairs = partition_distance(query, bank[: len(query)], sites)
    assert torch.equal(pairs, wanted.diagonal())
    assert pairs.dtype == torch.float64


@given(bits=st.lists(st.booleans(), min_size=1, max_size=200), seed=st.integers(0, 99))
def test_counts_of_bits(bits, seed):
    """Also where all of them differ."""
    x = torch.tensor([bits, bits])
    y = x.clone()
    y[0] = ~y[0]
    y[1] ^= torch.rand(len(bits), generator=torch.Generator().manual_seed(seed)) < 0.5
    found = partition_distance(pack_codes({"relu": x}), pack_codes({"relu": y}))
    assert torch.equal(found, (x != y).double().mean(1))


def test_many_rows_are_compared_in_chunks(monkeypatch):
    """Of one row, if need be."""
    monkeypatch.setattr("polygraph.analysis.codes._CHUNK_BYTES", 1)
    a, b = drawn(5), drawn(5, seed=1)
    assert torch.equal(partition_distance(pack_codes(a), pack_codes(b)), shares(a, b).diagonal())


def test_numbers_wider_than_those_of_the_bank():
    """300 is not 44 = 300 mod 256."""
    bank = pack_codes({"pool": torch.tensor([[44], [7]])})
    query = pack_codes({"pool": torch.tensor([[300], [7]])})
    assert code_neighbors(query, bank, 1)[1].tolist() == [[1], [0]]
    assert code_neighbors(bank, query, 1)[1].tolist() == [[1], [0]]
    both = PackedCodes.cat([bank, query])
    assert both.sites["pool"].flatten().tolist() == [44, 7, 300, 7]


def test_regions():
    """Each pattern once, and those that nobody shares."""
    codes = drawn(6)
    rows = torch.tensor([0, 1, 1, 2, 3, 3, 3])
    many = pack_codes({n: t[rows] for n, t in codes.items()})
    assert region_counts(many) == RegionCounts(samples=7, occupied=4, lonely=2, largest=3)
    assert region_counts(many[:0]) == RegionCounts(0, 0, 0, 0)
    x = torch.tensor([[True, True], [True, False], [True, False]])
    two = pack_codes({"a": x[:, :1], "b": x[:, 1:]})
    assert region_counts(two, ["a"]) == RegionCounts(3, 1, 0, 3)
    assert region_counts(two, ["b"]) == RegionCounts(3, 2, 1, 2)


def test_batches_become_a_file_that_is_mapped(tmp_path):
    """The codes of batches, written, and searched where they lie."""
    parts = [drawn(11, seed) for seed in range(3)]
    whole = pack_codes({n: torch.cat([part[n] for part in parts]) for n in SITES})
    codes = PackedCodes.cat([pack_codes(part) for part in parts])
    path = tmp_path / "codes.safetensors"
    codes.save(path)
    mapped = PackedCodes.load(path)
    assert mapped.entries == codes.entries
    assert list(mapped.sites) == list(codes.sites)
    for name, rows in mapped.sites.items():
        assert torch.equal(rows, whole.sites[name])
    for found, wanted in zip(
        code_neighbors(codes[:4], mapped, 9), code_neighbors(codes[:4], codes, 9), strict=True
    ):
        assert torch.equal(found, wanted)
    assert region_counts(mapped) == region_counts(codes)
    assert [p.name for p in tmp_path.iterdir()] == ["codes.safetensors"]
    codes[:5].select([SITES[1]]).save(path)
    assert len(PackedCodes.load(path)) == 5


@pytest.mark.parametrize("code", [torch.zeros(0), torch.zeros(3), torch.zeros(3, 0, 2)])
def test_codes_of_nothing_or_of_one_choice(code):
    """No samples, a number each, no choices."""
    for packed in (pack_codes({"a": code > 0}), pack_codes({"a": code.long()})):
        assert len(packed) == len(code)
        assert packed.entries == {"a": 1 if code.dim() == 1 else 0}
        assert partition_distance(packed, packed).tolist() == [0.0] * len(code)


def written(tensors, header):
    """A function that writes a file of safetensors."""
    return lambda path: save_file(tensors, path, metadata=header)


BITS = torch.zeros(4, 2, dtype=torch.uint64)
FILES = {
    "missing": (lambda path: None, "no such file"),
    "text": (lambda path: path.write_text("no codes " * 9), "not a readable safetensors file"),
    "cut short": (
        lambda path: (pack_codes(drawn(9)).save(path), path.write_bytes(path.read_bytes()[:-1])),
        "not a readable safetensors file",
    ),
    "weights": (written({"w": torch.zeros(2)}, None), "a safetensors file, but not of codes"),
    "no JSON": (written({"a": BITS}, {"polygraph_codes": "{"}), "header: not a readable JSON"),
    "a list": (written({"a": BITS}, {"polygraph_codes": "[1]"}), "name other sites"),
    "other sites": (written({"a": BITS}, {"polygraph_codes": '{"b": 80}'}), "name other sites"),
    "another width": (written({"a": BITS}, {"polygraph_codes": '{"a": 129}'}), "not as wide"),
    "no width": (written({"a": BITS}, {"polygraph_codes": '{"a": "x"}'}), "not as wide"),
    "floats": (written({"a": torch.zeros(4, 2)}, {"polygraph_codes": '{"a": 2}'}), "not as wide"),
    "samples": (
        written({"a": BITS, "b": BITS[:3].clone()}, {"polygraph_codes": '{"a": 80, "b": 80}'}),
        "not of as many samples",
    ),
}


@pytest.mark.parametrize("fault", FILES)
def test_bad_files(fault, tmp_path):
    """Refused, with the path."""
    write, message = FILES[fault]
    path = tmp_path / "codes"
    write(path)
    with pytest.raises(ValueError, match=f"codes: .*{message}"):
        PackedCodes.load(path)


PACKED = pack_codes(drawn(4))
OTHER = pack_codes({"1:relu": torch.zeros(4, 100, dtype=torch.uint8)})


@pytest.mark.parametrize(
    ("call", "exception", "message"),
    [
        (lambda: pack_codes({}), ValueError, "codes must name at least one site"),
        (lambda: pack_codes({"a": torch.rand(3)}), TypeError, "a must be bool or integers"),
        (lambda: pack_codes({"a": None}), TypeError, "a must be bool or integers, got None"),
        (lambda: pack_codes({"a": np.ones(3)}), TypeError, "must be a torch.Tensor, got a NumPy"),
        (lambda: pack_codes({"a": torch.tensor(True)}), ValueError, r"a must be \[B, ...\]"),
        (
            lambda: pack_codes({"a": torch.ones(3).bool(), "b": torch.ones(2).bool()}),
            ValueError,
            r"b must be \[B, ...\], B as of the others, got \[2\]",
        ),
        (
            lambda: pack_codes({"a": torch.tensor([2**31])}),
            ValueError,
            r"a must lie in \[-2\^31, 2\^31\), got values from 2147483648",
        ),
        (lambda: PACKED.select(["9"]), ValueError, r"some of 1:relu, .*got \['9'\]"),
        (lambda: PACKED.select([]), ValueError, "some of 1:relu"),
        (lambda: PACKED.select("1:relu"), ValueError, "some of 1:relu"),
        (lambda: PACKED[0], TypeError, "by a slice or a tensor, got int"),
        (lambda: PackedCodes.cat([]), ValueError, "parts must not be empty"),
        (lambda: PackedCodes.cat([PACKED, OTHER]), ValueError, "codes have other sites"),
        (lambda: partition_distance(PACKED, PACKED[:3]), ValueError, "got 4 and 3"),
        (
            lambda: code_neighbors(OTHER, PACKED, 1, ["1:relu"]),
            ValueError,
            r"1:relu holds 100 choices \(torch.uint64\) and 100 \(torch.uint8\)",
        ),
        (lambda: code_neighbors(PACKED, PACKED, 5), RuntimeError, "x has 4 codes, k is 5"),
    ],
)
def test_bad_arguments(call, exception, message):
    """Refused with what was wanted and what was got."""
    with pytest.raises(exception, match=message):
        call()
