"""Normalisation of second-order terms: each kind against its formula."""

from typing import ClassVar

import pytest
import torch
from support.layer_calls import Case
from support.layer_contract import LayerContract
from torch import nn

from polygraph.nn import LAYOUTS, NORMS, SecondOrderNorm

CASES = [("vectors", (6, 5), (1,)), ("vertices", (6, 7, 5), (1,)), ("images", (6, 5, 3, 4), (2, 3))]


def make(kind, layout="vertices", **arguments):
    norm = SecondOrderNorm(5, kind, LAYOUTS[layout], **arguments)
    if norm.scale is not None:
        nn.init.normal_(norm.scale)
    return norm


@pytest.mark.parametrize(("layout", "shape", "dims"), CASES)
@pytest.mark.parametrize("kind", ["rms", "instance", "none"])
def test_formula(kind, layout, shape, dims):
    norm = make(kind, layout)
    t = 3 * torch.randn(shape)
    if kind == "rms":
        wanted = t / (1 + (t**2).mean(dims, keepdim=True)).sqrt()
    elif kind == "instance":
        variance, mean = torch.var_mean(t, dims, correction=0, keepdim=True)
        wanted = (t - mean) / (variance + 1e-5).sqrt()
    else:
        wanted = t
    wanted = wanted * (norm.scale[:, None, None] if layout == "images" else norm.scale)
    torch.testing.assert_close(norm(t), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("layout", "shape", "dims"), CASES)
@pytest.mark.parametrize("kind", ["rms", "instance", "none"])
def test_samples_do_not_mix_and_nothing_is_remembered(kind, layout, shape, dims):
    norm = make(kind, layout)
    t = torch.randn(shape)
    whole = norm(t)
    torch.testing.assert_close(whole, torch.cat([norm(part) for part in t.split(1)]))
    assert torch.equal(norm.eval()(t), whole)
    assert not list(norm.buffers())


@pytest.mark.parametrize(("layout", "shape", "dims"), CASES)
def test_instance_of_a_vertex_is_over_its_channels(layout, shape, dims):
    norm = make("instance_vertex", layout)
    t = 3 * torch.randn(shape)
    channels = -1 if layout != "images" else 1
    variance, mean = torch.var_mean(t, channels, correction=0, keepdim=True)
    scale = norm.scale[:, None, None] if layout == "images" else norm.scale
    wanted = scale * (t - mean) / (variance + 1e-5).sqrt()
    torch.testing.assert_close(norm(t), wanted, rtol=1e-5, atol=1e-6)
    assert not list(norm.buffers())


def test_vertex_rms_has_a_scale_and_a_shift_at_every_vertex():
    norm = SecondOrderNorm(5, "vertex_rms", num_vertices=7)
    assert torch.equal(norm.scale, torch.full((7, 5), 0.1))
    assert torch.equal(norm.shift, torch.zeros(7, 5))
    nn.init.normal_(norm.scale)
    nn.init.normal_(norm.shift)
    t = 3 * torch.randn(6, 7, 5)
    wanted = norm.scale * t / (1 + (t**2).mean(1, keepdim=True)).sqrt() + norm.shift
    torch.testing.assert_close(norm(t), wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.cat([norm(part) for part in t.split(1)]), norm(t))
    assert not list(norm.buffers())
    norm.reset_parameters()
    assert (norm.scale == 0.1).all()
    assert (norm.shift == 0).all()


def test_scale_starts_small():
    for kind in ("rms", "instance", "none"):
        norm = SecondOrderNorm(5, kind)
        assert torch.equal(norm.scale, torch.full((5,), 0.1))
        nn.init.ones_(norm.scale)
        norm.reset_parameters()
        assert torch.equal(norm.scale, torch.full((5,), 0.1))


def test_small_terms_pass_and_large_ones_are_bounded():
    norm = SecondOrderNorm(5, "rms", initial_scale=1.0)
    t = torch.randn(2, 7, 5)
    # 1 / sqrt(1 + 1e-8) differs from 1 by less than float32 tells
    torch.testing.assert_close(norm(1e-4 * t), 1e-4 * t)
    assert norm(1e6 * t).square().mean(1).max() <= 1 + 1e-5


@pytest.mark.parametrize("dummy", [False, True])
def test_batch_is_batch_norm_over_vertices_and_channels(dummy):
    norm = make("batch", num_vertices=7, dummy_vertex=dummy)
    assert sum(p.numel() for p in norm.parameters()) == 2 * (7 + dummy) * 5
    t = torch.randn(6, 7, 5)
    wanted = nn.BatchNorm1d(35)(t.flatten(1)).view(6, 7, 5)
    torch.testing.assert_close(norm(t), wanted)
    norm.eval()
    torch.testing.assert_close(norm(t[0]), norm(t)[0])


def test_batch_channel_is_batch_norm_over_channels():
    t = torch.randn(6, 7, 5)
    wanted = nn.BatchNorm1d(5)(t.flatten(0, 1)).view(6, 7, 5)
    torch.testing.assert_close(make("batch_channel")(t), wanted)
    images = torch.randn(6, 5, 3, 4)
    wanted = nn.BatchNorm2d(5)(images)
    torch.testing.assert_close(make("batch_channel", "images")(images), wanted)


def test_bad_arguments():
    with pytest.raises(
        ValueError, match=r"kind must be one of rms, .*got 'rsm'; did you mean 'rms'"
    ):
        SecondOrderNorm(5, "rsm")
    with pytest.raises(ValueError, match="channels must be a positive integer, got 0"):
        SecondOrderNorm(0)
    with pytest.raises(ValueError, match="'vertex_rms' needs num_vertices, on layout 'vertices'"):
        SecondOrderNorm(5, "vertex_rms", LAYOUTS["images"], num_vertices=7)
    with pytest.raises(
        ValueError, match=r"'vertex_rms' needs num_vertices, .*got num_vertices=None"
    ):
        SecondOrderNorm(5, "vertex_rms")
    with pytest.raises(ValueError, match="'batch' needs num_vertices, on layout 'vertices'"):
        SecondOrderNorm(5, "batch")
    with pytest.raises(ValueError, match="on 'images'"):
        SecondOrderNorm(5, "batch", LAYOUTS["images"], num_vertices=4)


def test_every_kind_has_a_one_line_repr():
    for kind in NORMS:
        assert repr(make(kind, num_vertices=7)) == f"SecondOrderNorm({kind!r}, 'vertices')"


def terms(size=6):
    return (torch.randn(size, 7, 5, generator=torch.Generator().manual_seed(1)).double(),)


class TestSecondOrderNorm(LayerContract):
    kinds = (SecondOrderNorm,)
    cases: ClassVar = {
        kind: Case(lambda kind=kind: make(kind, num_vertices=7), terms) for kind in NORMS
    }
    compiled = ("batch",)
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    sizes = (6, 12, 4, 30)

    @staticmethod
    def sized(size):
        return terms(size)
