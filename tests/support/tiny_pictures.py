"""Pictures, and a denoiser of them that trains in a second."""

import numpy as np


def pictures(count=5, height=34, width=40, channels=None):
    """Smooth ones, each with its own slope; uint8 ``[H, W]`` or ``[H, W, channels]``."""
    rows, columns = np.mgrid[:height, :width] / max(height, width)
    found = []
    for n in range(count):
        values = 60 + 15 * n + 90 * rows + 30 * np.sin(9 * columns + n)
        if channels is not None:
            values = values[..., None] + 10 * np.arange(channels)
        found.append(values.clip(0, 255).astype(np.uint8))
    return found


def write_pictures(folder, images, suffix=".png"):
    """Files in a folder, which is made; its path."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for n, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{n}{suffix}")
    return folder


#: words of a run
QUICK = {
    "preset": "dncnn-10",
    "model": {"width": 4, "depth": 3},
    "steps": 6,
    "batch_size": 3,
    "eval_every": 3,
    "patch": 16,
    "val_size": 16,
    "accelerator": "cpu",
    "progress": False,
}
