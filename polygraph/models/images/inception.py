"""Inception-v3 from a user's file of weights, as the extractor of the published scores.

The network only, with the names that torchvision gives its parts, so that files in that layout fit:
torchvision's own weights (1,000 classes), and the port of the network that FID is defined with
(1,008 classes), which pools a little differently and is recognised by its number of classes.
Nothing is downloaded, and torchvision is not needed.

Source: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016; the
padding and pooling of the published weights. The auxiliary classifier, which only helps training,
is left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from polygraph._files import read_regular
from polygraph._inputs import check_dtype, check_tensors
from polygraph._memory import readable_bytes

_SIZE = 299
_FID_CLASSES = 1008
_CLASSES = 1000

Kernel = int | tuple[int, int]
Pool = Callable[[Tensor], Tensor]


class _Conv(nn.Module):
    """Convolution, BatchNorm, ReLU."""

    def __init__(self, ins: int, outs: int, kernel: Kernel, stride: int, padded: bool) -> None:
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (sides[0] // 2, sides[1] // 2) if padded else (0, 0)
        self.conv = nn.Conv2d(ins, outs, sides, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)))


def _average(x: Tensor) -> Tensor:
    return functional.avg_pool2d(x, 3, 1, 1)


def _average_inside(x: Tensor) -> Tensor:
    return functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def _largest(x: Tensor) -> Tensor:
    return functional.max_pool2d(x, 3, 1, 1)


def _shrink(x: Tensor) -> Tensor:
    return functional.max_pool2d(x, 3, 2)


class _Mixed(nn.Module):
    """Branches side by side.

    A branch is a list of (name, channels, kernel): convolutions in a row, all padded and of stride
    1, but for the last of a block that halves the image. A name that is a pair stands for two
    convolutions of the same input, side by side, with the kernels (1, 3) and (3, 1). The branch
    "branch_pool" follows the pooling; a block that halves the image has that pooling alone there.
    """

    def __init__(self, ins: int, branches: _Branches, pool: Pool, halves: bool = False) -> None:
        super().__init__()
        self.pool = pool
        self.plan: list[list[tuple[str, ...]]] = []
        for branch in branches:
            width = ins
            steps: list[tuple[str, ...]] = []
            for i, (name, outs, kernel) in enumerate(branch):
                last = halves and i == len(branch) - 1
                if kernel is None:
                    pair = (name + "a", name + "b")
                    self.add_module(pair[0], _Conv(width, outs, (1, 3), 1, True))
                    self.add_module(pair[1], _Conv(width, outs, (3, 1), 1, True))
                    steps.append(pair)
                else:
                    self.add_module(name, _Conv(width, outs, kernel, 1 + last, not last))
                    steps.append((name,))
                width = outs
            self.plan.append(steps)
        self.pools_alone = halves

    def forward(self, x: Tensor) -> Tensor:
        found = []
        for steps in self.plan:
            y = self.pool(x) if steps[0] == ("branch_pool",) else x
            for names in steps:
                y = torch.cat([self.get_submodule(name)(y) for name in names], 1)
            found.append(y)
        if self.pools_alone:
            found.append(self.pool(x))
        return torch.cat(found, 1)


_Branches = list[list[tuple[str, int, Kernel | None]]]


def _a(pool: int) -> _Branches:
    return [
        [("branch1x1", 64, 1)],
        [("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)],
        [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)],
        [("branch_pool", pool, 1)],
    ]


def _c(c: int) -> _Branches:
    wide, high = (1, 7), (7, 1)
    return [
        [("branch1x1", 192, 1)],
        [("branch7x7_1", c, 1), ("branch7x7_2", c, wide), ("branch7x7_3", 192, high)],
        [
            *(("branch7x7dbl_1", c, 1), ("branch7x7dbl_2", c, high)),
            *(("branch7x7dbl_3", c, wide), ("branch7x7dbl_4", c, high)),
            ("branch7x7dbl_5", 192, wide),
        ],
        [("branch_pool", 192, 1)],
    ]


_B: _Branches = [
    [("branch3x3", 384, 3)],
    [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)],
]
_D: _Branches = [
    [("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3)],
    [
        *(("branch7x7x3_1", 192, 1), ("branch7x7x3_2", 192, (1, 7))),
        *(("branch7x7x3_3", 192, (7, 1)), ("branch7x7x3_4", 192, 3)),
    ],
]
_E: _Branches = [
    [("branch1x1", 320, 1)],
    [("branch3x3_1", 384, 1), ("branch3x3_2", 384, None)],
    [("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3), ("branch3x3dbl_3", 384, None)],
    [("branch_pool", 192, 1)],
]


class InceptionV3(nn.Module):
    """Inception-v3 for scores: 2,048 features, and logits.

    Args:
        num_classes: 1,008 for the network of FID (its averages leave the border out, and the last
            block pools maxima); any other number for torchvision's.
        label: what scores taken through it are labelled with.

    Call `extract` with images ``[B, 1 or 3, H, W]`` in [-1, 1], of its weights' dtype: they are
    scaled to 299 x 299 (bilinear), grey ones repeated. In evaluation mode it is deterministic.

    Example:
        >>> import torch
        >>> from polygraph.models import InceptionV3
        >>> with torch.device("meta"):  # without memory or weights
        ...     network = InceptionV3()
        >>> sum(parameter.numel() for parameter in network.parameters())
        23834568

    See Also:
        `load_inception`, with weights; `LeNet`.
    """

    def __init__(self, num_classes: int = _CLASSES, label: str = "Inception-v3") -> None:
        super().__init__()
        self.label = label
        average = _average_inside if num_classes == _FID_CLASSES else _average
        last = _largest if num_classes == _FID_CLASSES else _average
        self.Conv2d_1a_3x3 = _Conv(3, 32, 3, 2, False)
        self.Conv2d_2a_3x3 = _Conv(32, 32, 3, 1, False)
        self.Conv2d_2b_3x3 = _Conv(32, 64, 3, 1, True)
        self.Conv2d_3b_1x1 = _Conv(64, 80, 1, 1, False)
        self.Conv2d_4a_3x3 = _Conv(80, 192, 3, 1, False)
        self.Mixed_5b = _Mixed(192, _a(32), average)
        self.Mixed_5c = _Mixed(256, _a(64), average)
        self.Mixed_5d = _Mixed(288, _a(64), average)
        self.Mixed_6a = _Mixed(288, _B, _shrink, halves=True)
        self.Mixed_6b = _Mixed(768, _c(128), average)
        self.Mixed_6c = _Mixed(768, _c(160), average)
        self.Mixed_6d = _Mixed(768, _c(160), average)
        self.Mixed_6e = _Mixed(768, _c(192), average)
        self.Mixed_7a = _Mixed(768, _D, _shrink, halves=True)
        self.Mixed_7b = _Mixed(1280, _E, average)
        self.Mixed_7c = _Mixed(2048, _E, last)
        self.fc = nn.Linear(2048, num_classes)

    def extract(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``[B, 2048]`` and logits ``[B, num_classes]`` of images ``[B, 1 or 3, H, W]``.

        Raises:
            ValueError: the images have another shape.
        """
        check_tensors(self.label, images=images)
        if images.dim() != 4 or images.shape[1] not in (1, 3):
            raise ValueError(
                f"{self.label}: images must have shape [B, 1 or 3, H, W], got {list(images.shape)}"
            )
        check_dtype(self.label, "images", images, self.fc.weight, of="model")
        x = images.expand(-1, 3, -1, -1)
        if x.shape[2:] != (_SIZE, _SIZE):
            shrinks = max(x.shape[2:]) > _SIZE
            x = functional.interpolate(x, (_SIZE, _SIZE), mode="bilinear", antialias=shrinks)
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = _shrink(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(_shrink(x))))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))
        x = self.Mixed_6e(self.Mixed_6d(x))
        features = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))).mean((2, 3))
        return features, self.fc(features)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, num_classes]`` of ``images [B, 1 or 3, H, W]``."""
        return self.extract(images)[1]


def load_inception(path: str | Path) -> InceptionV3:
    """Read Inception-v3's weights in torchvision's layout from a safetensors file.

    Its label carries the first eight digits of the file's SHA-256: "Inception-v3 1a2b3c4d", and
    "Inception-v3 (FID) ..." for the network with 1,008 classes.

    Args:
        path: the file. A ``.pth`` is a pickle, which is not read; convert it once where you trust
            it: ``safetensors.torch.save_file(torch.load(old, weights_only=True), new)``.

    Returns:
        The network in evaluation mode, on the CPU, without gradients.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: safetensors is missing; the message names the extra.
        ValueError: not a safetensors file, or a weight is missing or of another shape.

    Example:
        >>> from polygraph.models import load_inception
        >>> network = load_inception("inception.safetensors")  # doctest: +SKIP

    See Also:
        `InceptionV3`.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load
    except ImportError as error:
        raise ImportError("weights need safetensors: pip install 'polygraph-nn[train]'") from error
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    data = read_regular(path, readable_bytes())
    try:
        state = load(data)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(
            f"{path}: want Inception-v3's weights as safetensors (a .pth is not read), got a file "
            f"that is not readable as such: {error}"
        ) from error
    # The auxiliary classifier; counters, which some files have and others lack.
    state = {
        name: tensor
        for name, tensor in state.items()
        if not name.startswith("AuxLogits.") and not name.endswith("num_batches_tracked")
    }
    last = state.get("fc.weight")
    if last is None or last.dim() != 2:
        raise ValueError(f"{path}: fc.weight must have shape [classes, 2048], got none")
    variant = "Inception-v3 (FID)" if len(last) == _FID_CLASSES else "Inception-v3"
    label = f"{variant} {hashlib.sha256(data).hexdigest()[:8]}"
    with torch.device("meta"):
        model = InceptionV3(len(last), label)
    wanted = {
        name: tensor.shape
        for name, tensor in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    for name in sorted(wanted.keys() | state.keys()):
        got = list(state[name].shape) if name in state else "none"
        want = list(wanted[name]) if name in wanted else "no such weight"
        if got != want:
            raise ValueError(f"{path}: {name}: want {want}, got {got}")
    for name, tensor in state.items():
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{path}: {name}: want finite floating-point numbers")
    model = model.to_empty(device="cpu")
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=False)
    return model.eval().requires_grad_(False)
