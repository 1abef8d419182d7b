"""Nearest neighbours among the pixels of images."""

import pytest
import torch
from support.knn_graphs import points

from polygraph.nn import pixel_knn

RADII = [(1, None), (0, None), (None, None), (2, None), (1, 3), (None, 2), (0, 1)]


@pytest.mark.parametrize("radii", RADII)
@pytest.mark.parametrize("shape", [(2, 4, 7, 9), (1, 1, 6, 6), (1, 9, 12, 5)])
def test_pixels(shape, radii):
    """Every pixel, also at the border, against all pairs with a mask."""
    batch, _, height, width = shape
    exclude, search = radii
    x = torch.randint(0, 4, shape, generator=torch.Generator().manual_seed(1)).float()
    row, column = torch.arange(height * width) // width, torch.arange(height * width) % width
    apart = torch.maximum((row[:, None] - row).abs(), (column[:, None] - column).abs())
    allowed = (apart > (-1 if exclude is None else exclude)) & (apart <= (search or 99))
    k = int(allowed.sum(1).min())
    index, dist2 = pixel_knn(x, k, exclude, search)
    assert index.shape == dist2.shape == (batch, height * width, k)
    flat = x.flatten(2).transpose(1, 2)
    exact = (flat[:, :, None] - flat[:, None]).square().sum(-1)  # integers: no rounding, true ties
    exact = exact.masked_fill(~allowed, float("inf"))
    order = exact.sort(dim=-1, stable=True)
    assert torch.equal(index, order.indices[..., :k])
    assert torch.equal(dist2, order.values[..., :k])


def test_pixels_in_any_order_of_memory():
    x = points(2, 5, 8, 6)
    index, dist2 = pixel_knn(x, 4)
    crop = points(2, 5, 9, 9, seed=3)[..., 1:, 3:]
    crop.copy_(x)
    others = {
        "channels last": x.to(memory_format=torch.channels_last),
        "part of a larger image": crop,
        "transposed": x.transpose(2, 3).contiguous().transpose(2, 3),
    }
    for name, same in others.items():
        found = pixel_knn(same, 4)
        assert torch.equal(found[0], index), name
        assert torch.equal(found[1], dist2), name


def test_pixels_are_not_copied(monkeypatch):
    """The operator gets a view of the image in both usual orders of memory."""
    seen = []
    monkeypatch.setattr("polygraph.ops.knn", lambda x, *_, **__: seen.append(x.data_ptr()))
    x = points(2, 5, 8, 6)
    last = x.to(memory_format=torch.channels_last)
    pixel_knn(x, 4)
    pixel_knn(last, 4)
    assert seen == [x.data_ptr(), last.data_ptr()]


def test_defaults_leave_the_local_window_out():
    index, _ = pixel_knn(torch.zeros(1, 1, 4, 4), 3)
    assert index[0, 0].tolist() == [2, 3, 6]
    assert index[0, 15].tolist() == [0, 1, 2]


@pytest.mark.parametrize("radius", [31, 32, 33, 2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1])
def test_windows_larger_than_the_image(radius):
    """They hold the whole image, however large: no sum of a row and a radius overflows."""
    x = torch.randn(1, 3, 32, 8, generator=torch.Generator().manual_seed(0))
    index, dist2 = pixel_knn(x, 8, 1, radius)
    whole = pixel_knn(x, 8, 1)
    assert torch.equal(index, whole[0])
    assert torch.equal(dist2, whole[1])
    with pytest.raises(RuntimeError, match="sample 0 has 0 candidates"):
        pixel_knn(x, 1, radius)
