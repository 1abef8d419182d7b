"""Codes of a network's choices, packed: distances, neighbours, and the regions they occupy.

What a piecewise affine network chooses at a sample (`SplineLens.codes`) names the region that the
sample lies in. A code is as wide as the network, so it is kept packed: a bit for each truth value,
a byte or a few for other choices.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from polygraph import ops
from polygraph._files import PathLike, atomic_path, open_regular
from polygraph._inputs import check_tensors
from polygraph._json import parse_json

_HEADER = "polygraph_codes"
_MOST_BYTES = 1 << 62  # a file is mapped, not read
_CHUNK_BYTES = 1 << 22  # of rows that are compared at once
_INTEGERS = (torch.uint8, torch.int16, torch.int32)  # from narrow to wide
_TAKEN = (torch.bool, torch.int8, torch.int64, *_INTEGERS)


@dataclass(frozen=True)
class PackedCodes:
    """Codes of B samples: for each site of the network a row per sample.

    Attributes:
        sites: name -> ``[B, W]``: uint64 for truth values, 64 in a word, as
            `polygraph.ops.pack_bits` makes them; uint8, int16 or int32 for other choices.
        entries: name -> how many choices a row holds.

    Example:
        >>> import torch
        >>> from polygraph.analysis import PackedCodes, pack_codes
        >>> codes = pack_codes({"relu": torch.randn(4, 8, 10) > 0, "pool": torch.ones(4, 20)
        ...                     .long()})
        >>> codes
        PackedCodes(4 samples, 100 choices at 2 sites, 144 bytes)
        >>> codes.select(["relu"])[:2]
        PackedCodes(2 samples, 80 choices at 1 sites, 32 bytes)
        >>> PackedCodes.cat([codes, codes])
        PackedCodes(8 samples, 100 choices at 2 sites, 288 bytes)

    See Also:
        `pack_codes`, which makes them; `code_neighbors`, `partition_distance`, `region_counts`.
    """

    sites: dict[str, Tensor]
    entries: dict[str, int]

    def __repr__(self) -> str:
        """One line: samples, choices, bytes."""
        size = sum(t.numel() * t.element_size() for t in self.sites.values())
        return (
            f"PackedCodes({len(self)} samples, {self.num_entries} choices at {len(self.sites)} "
            f"sites, {size} bytes)"
        )

    def __len__(self) -> int:
        """B."""
        return len(next(iter(self.sites.values())))

    def __getitem__(self, rows: slice | Tensor) -> PackedCodes:
        """Some samples; a slice copies nothing."""
        if not isinstance(rows, slice | Tensor):
            raise TypeError(
                f"PackedCodes: samples are taken by a slice or a tensor, got {type(rows).__name__}"
            )
        return PackedCodes({name: t[rows] for name, t in self.sites.items()}, self.entries)

    @property
    def num_entries(self) -> int:
        """Choices of a sample, at all sites."""
        return sum(self.entries.values())

    def select(self, sites: Sequence[str] | None) -> PackedCodes:
        """Some sites, such as one layer's; None: all.

        Raises:
            ValueError: there is no such site, or none is named.
        """
        if sites is None:
            return self
        unknown = [name for name in sites if name not in self.sites]
        if unknown or not sites or isinstance(sites, str):
            raise ValueError(
                f"PackedCodes: sites must be a list of some of {', '.join(self.sites)}, "
                f"got {sites!r}"
            )
        return PackedCodes(
            {name: self.sites[name] for name in sites}, {n: self.entries[n] for n in sites}
        )

    @classmethod
    def cat(cls, parts: Sequence[PackedCodes]) -> PackedCodes:
        """The samples of several, one after the other: batches of a data set.

        Raises:
            ValueError: there is none, or they are not of one network.
        """
        if not parts:
            raise ValueError("PackedCodes.cat: parts must not be empty")
        sites = {}
        for name in parts[0].sites:
            for part in parts[1:]:
                _check_same(parts[0], part, "PackedCodes.cat")
            rows = [part.sites[name] for part in parts]
            widest = _widest([t.dtype for t in rows])
            sites[name] = torch.cat([t.to(widest) for t in rows])
        return cls(sites, parts[0].entries)

    def save(self, path: PathLike) -> None:
        """Write them to a file (safetensors), which appears whole or not at all.

        Raises:
            OSError: the file cannot be written.
        """
        tensors = {name: t.contiguous() for name, t in self.sites.items()}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata={_HEADER: json.dumps(self.entries)})

    @classmethod
    def load(cls, path: PathLike) -> PackedCodes:
        """Codes in a file that `save` wrote, mapped into memory: read when they are looked at.

        The file must not be changed meanwhile.

        Raises:
            ValueError: there is no such file, or it does not hold codes.
        """
        file, _ = open_regular(path, _MOST_BYTES)
        file.close()
        try:
            with safe_open(path, "pt") as opened:
                text = (opened.metadata() or {}).get(_HEADER)
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}
        except SafetensorError as error:
            raise ValueError(f"{path}: not a readable safetensors file ({error})") from error
        if text is None:
            raise ValueError(f"{path}: a safetensors file, but not of codes")
        entries = parse_json(text, f"{path}: header")
        if not isinstance(entries, dict) or set(entries) != set(tensors) or not tensors:
            raise ValueError(f"{path}: header and tensors name other sites")
        sites = {name: tensors[name] for name in entries}
        samples = {t.shape[:1] for t in sites.values()}
        fits = all(t.dim() == 2 and t.shape[1] == _width(t, entries[n]) for n, t in sites.items())
        if not fits or len(samples) != 1:
            raise ValueError(f"{path}: sites are not as wide, or not of as many samples, as stated")
        return cls(sites, entries)


@dataclass(frozen=True)
class RegionCounts:
    """How samples share the regions of a network.

    Attributes:
        samples: B.
        occupied: regions that hold a sample: different codes.
        lonely: samples that are alone in their region.
        largest: samples in the fullest region.

    Example:
        >>> import torch
        >>> from polygraph.analysis import pack_codes, region_counts
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 1.0], [-1.0, 1.0]])
        >>> region_counts(pack_codes({"relu": x > 0}))
        RegionCounts(samples=3, occupied=2, lonely=1, largest=2)

    See Also:
        `region_counts`, which makes it.
    """

    samples: int
    occupied: int
    lonely: int
    largest: int


def pack_codes(codes: Mapping[str, Tensor]) -> PackedCodes:
    """Pack what a network chooses at some samples.

    Args:
        codes: name of a site -> ``[B, ...]``, as `SplineLens.codes` gives them: bool (a bit each),
            or integers from -2^31 to 2^31 - 1 (stored as uint8, int16 or int32, the first that
            holds all of the site). On any device; the packed ones are on the CPU.

    Raises:
        TypeError: a code is no tensor of truth values or integers.
        ValueError: there is none, they differ in B, or an integer is too large.

    Example:
        >>> import torch
        >>> from polygraph.analysis import pack_codes
        >>> x = torch.randn(4, 70)
        >>> pack_codes({"1:relu": x > 0}).sites["1:relu"].shape
        torch.Size([4, 2])

    See Also:
        `PackedCodes`.
    """
    if not codes:
        raise ValueError("pack_codes: codes must name at least one site, got none")
    sites, entries = {}, {}
    for name, code in codes.items():
        check_tensors("pack_codes", **{f"codes[{name!r}]": code})
        if code is None or code.dtype not in _TAKEN:
            got = "None" if code is None else code.dtype
            raise TypeError(f"pack_codes: {name} must be bool or integers, got {got}")
        if code.dim() == 0 or len(code) != len(next(iter(codes.values()))):
            raise ValueError(
                f"pack_codes: {name} must be [B, ...], B as of the others, got {list(code.shape)}"
            )
        rows = code.detach().reshape(len(code), math.prod(code.shape[1:]))
        entries[name] = rows.shape[1]
        packed = ops.pack_bits(rows) if code.dtype == torch.bool else _narrowed(name, rows)
        sites[name] = packed.cpu().contiguous()
    return PackedCodes(sites, entries)


def partition_distance(
    a: PackedCodes, b: PackedCodes, sites: Sequence[str] | None = None
) -> Tensor:
    """The share of choices that differ between sample i of ``a`` and sample i of ``b``.

    Source: Balestriero and Baraniuk, "A Spline Theory of Deep Learning", ICML 2018, equation 15.

    Args:
        a: codes of B samples.
        b: of as many.
        sites: the sites that count; None: all.

    Returns:
        float64 ``[B]``, from 0 to 1.

    Raises:
        ValueError: they are not of one network, or of different numbers of samples.

    Example:
        >>> import torch
        >>> from polygraph.analysis import pack_codes, partition_distance
        >>> x = torch.tensor([[1.0, 2.0, -1.0, 3.0]])
        >>> partition_distance(pack_codes({"relu": x > 0}), pack_codes({"relu": x > 1.5}))
        tensor([0.2500], dtype=torch.float64)
    """
    a, b = a.select(sites), b.select(sites)
    _check_same(a, b, "partition_distance")
    if len(a) != len(b):
        raise ValueError(
            f"partition_distance: a and b must have as many samples, got {len(a)} and {len(b)}"
        )
    apart = torch.zeros(len(a), dtype=torch.float64)
    for name, of_a in a.sites.items():
        size = max(1, _CHUNK_BYTES // max(1, of_a.shape[1] * of_a.element_size()))
        for first in range(0, len(a), size):
            rows = slice(first, first + size)
            apart[rows] += _unequal(of_a[rows], b.sites[name][rows])
    return apart / max(1, a.num_entries)


def code_neighbors(
    query: PackedCodes, bank: PackedCodes, k: int, sites: Sequence[str] | None = None
) -> tuple[Tensor, Tensor]:
    """The ``k`` samples of a bank whose codes are nearest, exactly, ties by index.

    The bank may be a file (`PackedCodes.load`): it is searched where it is, by
    `polygraph.ops.hamming_knn`, without matrices of all distances. Where a site of the query holds
    larger numbers than that of the bank, the bank's is widened, which is a copy.

    Args:
        query: codes of M samples.
        bank: codes of N samples.
        k: neighbours, from 1 to N.
        sites: the sites that count, such as those of one layer; None: all.

    Returns:
        ``index`` int64 ``[M, k]``, rows of the bank; ``distance`` float64 ``[M, k]``, ascending:
        `partition_distance`.

    Raises:
        ValueError: they are not of one network.
        RuntimeError: ``k`` exceeds the samples of the bank.

    Example:
        >>> import torch
        >>> from polygraph.analysis import code_neighbors, pack_codes
        >>> x = torch.tensor([[1.0, 2.0], [3.0, -1.0], [-1.0, -1.0]])
        >>> bank = pack_codes({"relu": x > 0})
        >>> code_neighbors(bank[:1], bank, 3)
        (tensor([[0, 1, 2]]), tensor([[0.0000, 0.5000, 1.0000]], dtype=torch.float64))

    See Also:
        `polygraph.ops.hamming_knn`.
    """
    query, bank = query.select(sites), bank.select(sites)
    _check_same(bank, query, "code_neighbors")
    x, y = [], []
    for name, of_bank in bank.sites.items():
        of_query = query.sites[name]
        wide = _widest([of_bank.dtype, of_query.dtype])
        x.append(of_bank.to(wide))
        y.append(of_query.to(wide))
    index, distance = ops.hamming_knn(x, k, y=y)
    return index, distance.double() / max(1, bank.num_entries)


def region_counts(codes: PackedCodes, sites: Sequence[str] | None = None) -> RegionCounts:
    """How many regions are occupied, and how many samples are alone in theirs.

    Codes are told apart by hashes of 128 bits (BLAKE2), so two are taken for one by chance alone,
    of which there is none in practice; each is read once.

    Args:
        codes: of some samples.
        sites: the sites that count; None: all, which tells the regions of the network's input.

    Example:
        >>> import torch
        >>> from polygraph.analysis import pack_codes, region_counts
        >>> codes = pack_codes({"relu": torch.tensor([[True, False], [True, False], [True, True]])})
        >>> found = region_counts(codes)
        >>> found.occupied, found.lonely
        (2, 1)
    """
    chosen = codes.select(sites)
    rows = [t.contiguous().view(torch.uint8).numpy() for t in chosen.sites.values() if t.numel()]
    found: Counter[bytes] = Counter()
    for i in range(len(chosen)):
        digest = hashlib.blake2b(digest_size=16)
        for row in rows:
            digest.update(row[i].data)
        found[digest.digest()] += 1
    lonely = sum(count == 1 for count in found.values())
    return RegionCounts(len(chosen), len(found), lonely, max(found.values(), default=0))


def _narrowed(name: str, rows: Tensor) -> Tensor:
    low, high = (int(v) for v in rows.aminmax()) if rows.numel() else (0, 0)
    for dtype in _INTEGERS:
        if torch.iinfo(dtype).min <= low and high <= torch.iinfo(dtype).max:
            return rows.to(dtype)
    raise ValueError(
        f"pack_codes: {name} must lie in [-2^31, 2^31), got values from {low} to {high}"
    )


def _widest(dtypes: Sequence[torch.dtype]) -> torch.dtype:
    return max(dtypes, key=lambda d: d.itemsize)


def _width(packed: Tensor, entries: object) -> int:
    """Elements of a row of so many entries; -1: there is none."""
    if type(entries) is not int or entries < 0:
        return -1
    if packed.dtype == torch.uint64:
        return -(-entries // 64)
    return entries if packed.dtype in _INTEGERS else -1


def _check_same(a: PackedCodes, b: PackedCodes, owner: str) -> None:
    """Refuse codes of different networks."""
    if list(a.sites) != list(b.sites):
        raise ValueError(
            f"{owner}: codes have other sites: {', '.join(a.sites)} and {', '.join(b.sites)}"
        )
    for name, rows in a.sites.items():
        truth = [p.sites[name].dtype == torch.uint64 for p in (a, b)]
        if truth[0] != truth[1] or a.entries[name] != b.entries[name]:
            raise ValueError(
                f"{owner}: {name} holds {a.entries[name]} choices ({rows.dtype}) and "
                f"{b.entries[name]} ({b.sites[name].dtype})"
            )


def _unequal(a: Tensor, b: Tensor) -> Tensor:
    """How many entries of each row differ."""
    if a.dtype != torch.uint64:
        return (a != b).sum(1)
    bits = a.view(torch.int64) ^ b.view(torch.int64)
    bits = bits - (bits >> 1 & 0x5555555555555555)
    bits = (bits & 0x3333333333333333) + (bits >> 2 & 0x3333333333333333)
    bits = (bits + (bits >> 4)) & 0x0F0F0F0F0F0F0F0F
    return (bits * 0x0101010101010101 >> 56).sum(1)
