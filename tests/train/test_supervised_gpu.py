"""The supervised loop on a GPU: mixed precision, stopped and resumed.

It needs the hardware: on the CPU there is no float16 to train in.
"""

import pytest
import torch


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="float16 needs CUDA")
@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
def test_mixed_precision_resumes_to_the_same_bits(tmp_path, precision):
    for package in ("lightning_fabric", "safetensors", "tqdm"):
        pytest.importorskip(package)
    from train.toy_task import train

    from polygraph.train.checkpoint import load_checkpoint

    settings = {"precision": precision, "optimizer": "sgd", "schedule": "constant"}
    settings |= {"accelerator": "cuda", "learning_rate": 0.001, "grad_clip": 1.0}
    for folder, ends in (("whole", (9,)), ("parts", (4, 9))):
        for steps in ends:
            train(tmp_path / folder, resume=True, steps=steps, **settings)
    folders = (tmp_path / "whole", tmp_path / "parts")
    whole, parts = (load_checkpoint(folder / "last.safetensors")[0] for folder in folders)
    assert whole.get("precision") == parts.get("precision")
    assert ("precision" in whole) == (precision == "16-mixed")
    for key, value in whole["modules"]["net"].items():
        assert torch.equal(value, parts["modules"]["net"][key])
