"""Similarities of embeddings: of pairs, of all pairs, of templates."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from polygraph._arrays import as_numpy
from polygraph._memory import check_room

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

CHUNK = 1 << 21  #: numbers of a block that is held at a time


def unit_rows(name: str, embeddings: Any) -> Floats:
    """Embeddings of length 1, in float64.

    Args:
        name: begins the messages.
        embeddings: numbers ``[N, D]``, of numpy or torch.

    Raises:
        ValueError: another shape, a number that is not finite, or a row of zeros, which has no
            direction.
    """
    found = as_numpy(embeddings)
    if found.ndim != 2 or 0 in found.shape or found.dtype.kind not in "iuf":
        raise ValueError(
            f"{name} must be numbers of shape [N, D], N and D at least 1, got {found.dtype} "
            f"{list(found.shape)}"
        )
    rows = found.astype(np.float64)
    bad = ~np.isfinite(rows).all(1)
    if bad.any():
        raise ValueError(
            f"{name} must be finite, but {int(bad.sum())} rows are not, the first of them row "
            f"{int(bad.argmax())}"
        )
    largest = np.abs(rows).max(1, keepdims=True)
    if not largest.all():
        raise ValueError(
            f"{name} must have a direction, but {int((largest == 0).sum())} rows are zero, the "
            f"first of them row {int((largest[:, 0] == 0).argmax())}"
        )
    rows /= largest  # squares of 1e-200 would be 0
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def checked_numbers(name: str, values: Any, size: int | None = None) -> Integers:
    """Integers ``[size]`` as int64.

    Raises:
        ValueError: another shape or dtype; ``name`` begins the message.
    """
    found = as_numpy(values)
    if found.ndim != 1 or found.dtype.kind not in "iu" or size not in (None, len(found)):
        raise ValueError(
            f"{name} must be integers of shape [{'N' if size is None else size}], got "
            f"{found.dtype} {list(found.shape)}"
        )
    return found.astype(np.int64)


def pair_scores(embeddings: Any, first: Any, second: Any) -> Floats:
    """Cosine similarity of pairs of embeddings.

    Args:
        embeddings: ``[N, D]``, of numpy or torch; they need not have length 1.
        first: integers ``[P]`` in ``[0, N)``.
        second: integers ``[P]``.

    Returns:
        float64 ``[P]``, in [-1, 1] up to rounding. No more than a block of pairs is gathered at a
        time.

    Raises:
        ValueError: see `unit_rows`; or other shapes, or an index out of range.

    Example:
        >>> import numpy as np
        >>> from polygraph.metrics.verification import pair_scores
        >>> pair_scores(np.array([[1, 0], [2, 0], [0, 3]]), [0, 0], [1, 2])
        array([1., 0.])
    """
    rows = unit_rows("pair_scores: embeddings", embeddings)
    one = checked_numbers("pair_scores: first", first)
    two = checked_numbers("pair_scores: second", second, len(one))
    for name, index in (("first", one), ("second", two)):
        if len(index) and not 0 <= index.min() <= index.max() < len(rows):
            raise ValueError(
                f"pair_scores: {name} must lie in [0, {len(rows)}), got values from {index.min()} "
                f"to {index.max()}"
            )
    found = np.empty(len(one))
    step = max(1, CHUNK // rows.shape[1])
    for start in range(0, len(one), step):
        block = slice(start, start + step)
        found[block] = np.einsum("pd,pd->p", rows[one[block]], rows[two[block]])
    return found


def all_pair_scores(embeddings: Any, labels: Any) -> tuple[Floats, NDArray[np.bool_]]:
    """Cosine similarities of all pairs of different embeddings, and which are genuine.

    Args:
        embeddings: ``[N, D]``, of numpy or torch.
        labels: integers ``[N]``, the identities.

    Returns:
        float64 and bool ``[N (N - 1) / 2]``: pairs (0, 1), (0, 2), ..., (1, 2), ...

    Raises:
        ValueError: see `unit_rows`; or ``labels`` do not fit, or there is no memory for so many.

    Example:
        >>> import numpy as np
        >>> from polygraph.metrics.verification import all_pair_scores
        >>> all_pair_scores(np.array([[1, 0], [2, 0], [0, 3]]), [7, 7, 8])
        (array([1., 0., 0.]), array([ True, False, False]))
    """
    rows = unit_rows("all_pair_scores: embeddings", embeddings)
    names = checked_numbers("all_pair_scores: labels", labels, len(rows))
    count = len(rows) * (len(rows) - 1) // 2
    check_room(9 * count, f"all_pair_scores: {count} pairs")
    scores, same = np.empty(count), np.empty(count, np.bool_)
    step, at = max(1, CHUNK // len(rows)), 0
    for start in range(0, len(rows), step):
        block = rows[start : start + step] @ rows.T
        for i, similar in enumerate(block, start):
            later = slice(at, at + len(rows) - 1 - i)
            scores[later], same[later] = similar[i + 1 :], names[i + 1 :] == names[i]
            at = later.stop
    return scores, same


def templates(embeddings: Any, ids: Any) -> tuple[Floats, Integers]:
    """One embedding for each template: the mean of its embeddings of length 1, of length 1 again.

    Source: the protocol of IJB-B and IJB-C (Whitelam et al., CVPRW 2017), where a template is all
    pictures and frames of a person.

    Args:
        embeddings: ``[N, D]``, of numpy or torch.
        ids: integers ``[N]``: which template an embedding belongs to.

    Returns:
        float64 ``[T, D]``, and the ids of these templates, int64 ``[T]``, ascending.

    Raises:
        ValueError: see `unit_rows`; or the embeddings of a template cancel.

    Example:
        >>> import numpy as np
        >>> from polygraph.metrics.verification import templates
        >>> templates(np.array([[2.0, 0.0], [0.0, 1.0], [0.0, 5.0]]), [4, 4, 9])
        (array([[0.70710678, 0.70710678],
               [0.        , 1.        ]]), array([4, 9]))
    """
    rows = unit_rows("templates: embeddings", embeddings)
    numbers = checked_numbers("templates: ids", ids, len(rows))
    order = np.argsort(numbers, kind="stable")
    names, starts = np.unique(numbers[order], return_index=True)
    means = (
        np.add.reduceat(rows[order], starts) / np.bincount(np.searchsorted(names, numbers))[:, None]
    )
    length = np.linalg.norm(means, axis=1)
    if length.min() < 1e-12:
        raise ValueError(
            f"templates: the embeddings of template {names[length.argmin()]} cancel: their mean "
            "has no direction"
        )
    return means / length[:, None], names
