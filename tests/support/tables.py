"""Random features and neighbour tables, ordinary and hostile."""

import torch
from hypothesis import strategies as st

from polygraph.ops import transpose_table


def normal(*shape, seed=0):
    """Standard normal numbers in float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def table(rows, slots, sources, *, seed=0, missing=0.2):
    """A random neighbour table ``[rows, slots]``: some entries -1, some named twice in a row."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(0, max(1, sources), (rows, slots), generator=generator)
    gone = torch.rand((rows, slots), generator=generator) < (missing if sources else 1.1)
    index[gone] = -1
    return index


def with_table(inputs, sources):
    """The call with the transposed table made beforehand."""
    return inputs | {"transposed": transpose_table(inputs["index"], sources)}


# Numbers that a float32 kernel must survive: zeros of both signs, subnormal and huge ones (whose
# products with weights below 10 still fit), and what is no number at all.
HOSTILE = (0.0, -0.0, 1e-38, -1e-38, 1e-45, 1e19, -1e19, 1e30, 1.0, -2.5)
NOT_FINITE = (float("nan"), float("inf"), float("-inf"))


@st.composite
def hostile_tables(draw):
    """(index, sources): all -1, all the same, every vertex, one vertex, or a wild mixture."""
    sources = draw(st.integers(1, 9))
    rows, slots = draw(st.integers(1, 9)), draw(st.integers(1, 6))
    entry = draw(
        st.sampled_from(
            [
                st.just(-1),
                st.just(0),
                st.just(sources - 1),
                st.integers(0, sources - 1),
                st.integers(-1, sources - 1),
            ]
        )
    )
    row = st.lists(entry, min_size=slots, max_size=slots)
    index = draw(st.lists(row, min_size=rows, max_size=rows))
    return torch.tensor(index), sources


@st.composite
def hostile_features(draw, *shape):
    """A float32 tensor that is random but for a few hostile entries."""
    x = normal(*shape, seed=draw(st.integers(0, 1000))).float()
    entries = st.tuples(st.integers(0, x.numel() - 1), st.sampled_from(HOSTILE + NOT_FINITE))
    for place, value in draw(st.lists(entries, max_size=4)):
        x.view(-1)[place] = value
    return x
