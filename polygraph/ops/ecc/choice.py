"""Which way of computing `polygraph.ops.ecc` and its first derivatives runs when, and why.

=========  =========================================  ============================================
way        runs when                                  why
=========  =========================================  ============================================
sources    the caller says so, or the sources need    A source's product with W serves all edges
           fewer operations (`source_is_cheaper`)     that leave it: PyTorch's product, then
                                                      ``edge_inner_`` combines its rows by φ, and
                                                      `edge_sum` adds up the messages.
tiles      on the CPU, a target has at most FEW       Two dozen targets go from the edges through
           elements (H C), and φ is stored per edge   the weights in one kernel, in the nearest
           or lanes do not run                        cache: on a mesh, 9 x 16, 1.5 times as fast
                                                      as lanes, 2.7 times with the backward pass;
                                                      33 x 32, 1.4 times.
lanes      on the CPU, where degrees differ little    Targets lie side by side in the lanes of
           (`by_lanes`)                               vectors; hidden features, sums and products
                                                      exist for dozens of targets, in cache, and
                                                      no copy is made of W.
targets    elsewhere: CUDA, irregular graphs          ``edge_outer_`` adds up φ ⊗ x for a chunk of
                                                      targets, then PyTorch's product with W.
=========  =========================================  ============================================

Kernels: csrc/edge_product (sources, targets), csrc/ecc_tile, csrc/ecc_lane.
"""

from __future__ import annotations

import torch
from torch import Tensor

from polygraph.ops import common
from polygraph.ops.graph import Graph
from polygraph.ops.graph_side import GraphSide

# Targets side by side in vectors are filled up to the most neighbours among them: up to this share
# more slots than there are, and this many bytes for what they need.
LANE_TARGETS, LANE_SHARE, LANE_BYTES = 16, 1.5, 4 << 20
# Elements of a target, H x C, up to which tiles are quicker than lanes.
FEW = 1024


def way_of(
    x: Tensor, width: int, side: GraphSide, *, stored: bool, ones: bool, by_source: bool
) -> str:
    """The way, by its name in the table.

    Args:
        x: ``[N, C]``.
        width: H.
        side: of the targets.
        stored: whether φ is stored per edge; else nodes, or a layer, make it.
        ones: whether there is a constant part of W.
        by_source: whether the sources take the products.
    """
    if by_source:
        return "sources"
    few = _fits_tiles(x, width + ones)
    if few and stored:
        return "tiles"
    if by_lanes(x, width, side):
        return "lanes"
    return "tiles" if few else "targets"


def _fits_tiles(x: Tensor, hidden: int) -> bool:
    return common.takes_cpu_kernels(x) and hidden * x.shape[1] <= FEW


def by_lanes(x: Tensor, hidden: int, side: GraphSide) -> bool:
    """Whether the CPU takes targets side by side in its vectors: their degrees differ little."""
    slots, targets = side.other.shape[0], side.num_segments
    if not common.takes_cpu_kernels(x) or slots == 0 or targets < 1:
        return False
    degree = side.ptr.diff()
    most = int(degree.max())
    bytes_each = LANE_TARGETS * x.element_size()
    if most * (hidden + x.shape[1]) * bytes_each > LANE_BYTES or int(degree.min()) < 0:
        return False
    filled = torch.nn.functional.pad(degree, (0, -degree.shape[0] % LANE_TARGETS))
    lanes = LANE_TARGETS * int(filled.view(-1, LANE_TARGETS).amax(1).sum())
    return lanes <= LANE_SHARE * (slots + LANE_TARGETS * most)


def source_is_cheaper(x: Tensor, weight: Tensor, graph: Graph) -> bool:
    """Whether the sources need fewer operations than the targets."""
    hidden, C, D = weight.shape
    # Sizes of tensors, for torch.compile of 2.10 makes no numbers of the graph's properties.
    targets, slots = graph.ptr.shape[0] - 1, graph.source.shape[0]
    per_target = targets * hidden * C * D + slots * hidden * C
    per_source = x.shape[0] * hidden * C * D + slots * (hidden + 1) * D
    # At 16 to 3 channels the sources have 0.45 of the operations, and take as long as tiles.
    factor = 3 if _fits_tiles(x, hidden) else 1
    return common.decide(factor * per_source < per_target, default=False)
