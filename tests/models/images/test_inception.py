"""Inception-v3: the published parameter count and names, files in torchvision's layout, faults."""

import pytest
import torch

from polygraph.metrics.image_scores import Activations
from polygraph.models.images.inception import InceptionV3, load_inception

safetensors = pytest.importorskip("safetensors.torch")


@pytest.fixture(scope="module")
def random_model():
    torch.manual_seed(0)
    return InceptionV3().eval()


@pytest.fixture(scope="module")
def weights(random_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "weights.safetensors"
    extra = {"AuxLogits.fc.weight": torch.zeros(1000, 768)}
    safetensors.save_file({**random_model.state_dict(), **extra}, path)
    return path


def test_parameters_and_names():
    with torch.device("meta"):
        model = InceptionV3()
    # torchvision documents 27,161,264 with the auxiliary classifier, which has 3,326,696.
    assert sum(p.numel() for p in model.parameters()) == 27_161_264 - 3_326_696
    state = model.state_dict()
    for name, shape in {
        "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
        "Mixed_5b.branch5x5_2.conv.weight": (64, 48, 5, 5),
        "Mixed_6a.branch3x3dbl_3.conv.weight": (96, 96, 3, 3),
        "Mixed_6b.branch7x7dbl_2.conv.weight": (128, 128, 7, 1),
        "Mixed_6e.branch7x7_2.bn.running_var": (192,),
        "Mixed_7a.branch7x7x3_3.conv.weight": (192, 192, 7, 1),
        "Mixed_7c.branch3x3dbl_3a.conv.weight": (384, 384, 1, 3),
        "fc.bias": (1000,),
    }.items():
        assert state[name].shape == shape


def test_reads_what_was_written(random_model, weights):
    model = load_inception(weights)
    assert model.label.startswith("Inception-v3 ")
    assert len(model.label) == len("Inception-v3 12345678")
    grey = torch.rand(2, 1, 32, 32) * 2 - 1
    with torch.no_grad():
        features, logits = model.extract(grey)
        assert features.shape == (2, 2048)
        assert torch.equal(logits, random_model(grey.repeat(1, 3, 1, 1)))
    found = Activations(model)
    found.update(grey)
    assert (found.features().shape, found.num_nonfinite) == ((2, 2048), 0)
    with pytest.raises(ValueError, match=r"images must have shape \[B, 1 or 3, H, W\], got \[2, 4"):
        model.extract(torch.zeros(2, 4, 8, 8))


def test_pooling_of_the_two_kinds():
    with torch.device("meta"):
        ours, fid = InceptionV3(), InceptionV3(1008)
    ones = torch.ones(1, 1, 4, 4)
    assert ours.Mixed_5b.pool(ones)[0, 0, 0, 0] == pytest.approx(4 / 9)
    assert fid.Mixed_7b.pool(ones)[0, 0, 0, 0] == 1
    ramp = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert fid.Mixed_7c.pool(ramp)[0, 0, 0, 0] == 5
    assert ours.Mixed_7c.pool(ramp)[0, 0, 0, 0] == pytest.approx(10 / 9)


def test_faults(tmp_path):
    path = tmp_path / "weights.safetensors"
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_inception(path)
    path.write_bytes(b"PK\x03\x04 a pickle in a zip")
    with pytest.raises(
        ValueError, match=r"as safetensors \(a \.pth is not read\), got a file that"
    ):
        load_inception(path)
    safetensors.save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match=r"fc\.weight must have shape \[classes, 2048\], got none"):
        load_inception(path)
    safetensors.save_file({"fc.weight": torch.zeros(1000, 2048)}, path)
    with pytest.raises(ValueError, match=r"Conv2d_1a_3x3.bn.bias: want \[32\], got none"):
        load_inception(path)
