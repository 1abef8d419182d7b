"""The same lists of neighbours on a GPU as on the CPU."""

import pytest
import torch
from support.calls import convert
from support.clouds import CLOUDS
from support.devices import GPU, PLACE, capture
from support.tables import normal

from polygraph import ops

EVERY_KERNEL = [
    {"sizes": (2, 300, 3), "k": 20},
    {"sizes": (2, 300, 2), "k": 250},
    {"sizes": (2, 1500, 66), "k": 32},
    {"sizes": (2, 700, 24), "k": 20},
    {"sizes": (1, 16500, 3), "k": 16},
    {"sizes": (2, 16500, 2), "k": 100, "exclude_self": True},
    {"sizes": (2, 333, 33), "k": 50, "exclude_self": True},
    {"sizes": (1, 700, 16), "k": 128},
    {"sizes": (1, 3000, 20), "k": 2000},
    {"sizes": (600, 7), "k": 5, "ptr": torch.tensor([0, 200, 200, 213, 600])},
    {"sizes": (2, 20 * 31, 12), "k": 9, "grid": (20, 31), "exclude_radius": 1, "search_radius": 6},
]


def require_same_on_gpu(x, k, **options):
    """The GPU's list is the CPU's, and both distances are the same bits."""
    index, found = ops.knn(x.to(GPU), k, **convert(options, device=GPU))
    expected_index, expected = ops.knn(x, k, **options)
    assert torch.equal(found.cpu(), expected)
    assert torch.equal(index.cpu(), expected_index)


@pytest.mark.gpu
@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("case", EVERY_KERNEL, ids=lambda c: f"{c['sizes']} k {c['k']}")
def test_gpu_lists(case, cloud):
    """Every kernel, every dtype, every hostile cloud."""
    if PLACE == "emulated":
        pytest.skip("would compare CUDA's kernels with themselves")
    generator = torch.Generator().manual_seed(3)
    options = {name: value for name, value in case.items() if name != "sizes"}
    *samples, points, channels = case["sizes"]
    rows = [CLOUDS[cloud]((points, channels), generator, torch.float32) for _ in range(2)]
    x = torch.stack(rows[: samples[0]]) if samples else rows[0]
    require_same_on_gpu(x, **options)
    require_same_on_gpu(x.double(), **options)
    for dtype in (torch.float16, torch.bfloat16):
        if x.to(dtype).isfinite().all():
            require_same_on_gpu(x.to(dtype), **options)


@pytest.mark.gpu
def test_gpu_lists_replayed():
    """A CUDA graph replays on other points and other samples."""
    x, ptr = normal(200, 9).float().to(GPU), torch.tensor([0, 50, 200]).to(GPU)
    replayed, replay = capture(lambda: dict(enumerate(ops.knn(x, 7, ptr=ptr))))
    x.copy_(normal(200, 9, seed=1))
    ptr.copy_(torch.tensor([0, 130, 200]))
    replay()
    for number, expected in enumerate(ops.knn(x.cpu(), 7, ptr=ptr.cpu())):
        assert torch.equal(replayed[number].cpu(), expected)
