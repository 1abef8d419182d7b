"""Nearest codes by Hamming distance, exactly ordered."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polygraph import _load
from polygraph._inputs import check_tensors

_load.load_libraries()
_ops = torch.ops.polygraph

WORD_BITS = 64


def pack_bits(x: Tensor) -> Tensor:
    """Truth values as bits of 64-bit words, for `hamming_knn`.

    Value ``i`` is bit ``i mod 64``, from the lowest, of word ``i // 64``; bits behind the last
    value are 0.

    Args:
        x: bool ``[..., D]``, any strides.

    Returns:
        uint64 ``[..., ceil(D / 64)]``.

    Raises:
        TypeError: ``x`` is no bool tensor.
        ValueError: it has no dimension.

    Example:
        >>> import torch
        >>> from polygraph.ops import pack_bits
        >>> pack_bits(torch.tensor([[True, False, True], [False, True, True]]))
        tensor([[5],
                [6]], dtype=torch.uint64)

    See Also:
        `hamming_knn`; `polygraph.analysis.pack_codes`, for the codes of a network.
    """
    check_tensors("pack_bits", x=x)
    if x.dtype != torch.bool:
        raise TypeError(f"pack_bits: x must be bool, got {x.dtype}: (x > 0), for one")
    if x.dim() == 0:
        raise ValueError("pack_bits: x must have shape [..., D], got []")
    values, words = x.shape[-1], -(-x.shape[-1] // WORD_BITS)
    if x.numel() == 0:
        return x.new_zeros((*x.shape[:-1], words), dtype=torch.uint64)
    padded = x.new_zeros((*x.shape[:-1], words * WORD_BITS))
    padded[..., :values] = x
    # Eight bytes of 0 or 1, read as a number, times the sum of 2^7, 2^14 .. 2^56: the highest byte
    # of the product has the eight bits.
    spread = padded.view(torch.uint8).view(torch.int64)
    packed = ((spread * 0x0102040810204080) >> 56).to(torch.uint8)
    return packed.view(torch.uint64)


def hamming_knn(
    x: Tensor | Sequence[Tensor], k: int, *, y: Tensor | Sequence[Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """The ``k`` nearest codes of every query, by Hamming distance.

    A code is a row of ``x``, or of each of several tensors. The distance of query ``m`` and code
    ``n`` is the number of entries in which they differ::

        d(m, n) = Σ_i |{e : y_i[m, e] ≠ x_i[n, e]}|

    over all tensors ``i``; of words of uint64 every bit is an entry. Lists are sorted by distance,
    ties by index, and are the same on any instruction set and for any number of threads.

    Nothing of size M x N is stored: the bank ``x`` is read in place, once for every 1024 queries,
    in tiles that are compared with all of them. It may be a file mapped into memory
    (``torch.from_file``, ``torch.from_numpy(numpy.memmap(...))``). Beyond it and the result,
    at most 128 MiB, and 1.3 MiB for each thread, are in use, unless a single query with its list of
    ``2 k + 64`` takes more. Rows may lie apart in memory, as those of ``bank[:, 3:9]`` do;
    only a tensor whose entries within a row lie apart is copied.

    Args:
        x: codes ``[N, W]``, or several such tensors. uint64: 64 truth values in a word, as
            `pack_bits` makes them (what follows the last value must be the same in ``x`` and
            ``y``); bool, uint8, int8, int16 or int32: an entry each.
        k: neighbors of each query, from 1 to N (without queries any from 1 on).
        y: queries ``[M, W]``, as ``x`` and of its dtype; None: the codes themselves.

    Returns:
        ``index`` int64 ``[M, k]``: rows of ``x``; ``distance`` int64 ``[M, k]``, ascending. Neither
        is differentiable. Deterministic. On the CPU alone.

    Raises:
        TypeError: what is no tensor.
        ValueError: a list without tensors.
        RuntimeError: a shape, dtype or device is wrong, or ``k`` exceeds the number of codes.
        NotImplementedError: a tensor on a GPU.

    Example:
        >>> import torch
        >>> from polygraph.ops import hamming_knn, pack_bits
        >>> bank = torch.tensor([[0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 1]], dtype=torch.bool)
        >>> index, distance = hamming_knn(pack_bits(bank), 2, y=pack_bits(bank[:1]))
        >>> index, distance
        (tensor([[0, 2]]), tensor([[0, 1]]))
        >>> winners = torch.tensor([[3, 1], [3, 2], [0, 2]], dtype=torch.uint8)
        >>> hamming_knn([pack_bits(bank), winners], 3, y=[pack_bits(bank[2:]), winners[2:]])
        (tensor([[2, 0, 1]]), tensor([[0, 3, 4]]))

    See Also:
        `polygraph.analysis.code_neighbors`, for the codes of a network; `knn`, for points.
    """
    bank = _as_list("x", x)
    queries = bank if y is None else _as_list("y", y)
    index, distance = _ops.hamming_knn(bank, queries, k)
    return index, distance


def _as_list(name: str, codes: Tensor | Sequence[Tensor]) -> list[Tensor]:
    parts: list[Tensor] = []
    for part in codes if isinstance(codes, list | tuple) else [codes]:
        check_tensors("hamming_knn", **{name: part})
        if not isinstance(part, Tensor):
            raise TypeError(f"hamming_knn: {name} must be a torch.Tensor, got NoneType")
        parts.append(part)
        if part.is_cuda:
            raise NotImplementedError(f"hamming_knn: runs on the CPU alone: {name}.cpu()")
    if not parts:
        raise ValueError(f"hamming_knn: {name} must hold at least one tensor")
    return parts


@torch.library.register_fake("polygraph::hamming_knn")
def _(x: list[Tensor], y: list[Tensor], k: int) -> tuple[Tensor, Tensor]:
    shape = (y[0].shape[0], k)
    return x[0].new_empty(shape, dtype=torch.int64), x[0].new_empty(shape, dtype=torch.int64)
