"""Residual networks of the Π-nets' papers by name.

The name of a ProdPoly network has its depths. What each of them computes, and which published
counts of parameters it has, is in docs/classification.md.
"""

from __future__ import annotations

from dataclasses import replace

from polygraph.models.resnet.resnet import ResNetConfig

_RESNET18 = ResNetConfig()
_RESNET34 = replace(_RESNET18, depths=(3, 4, 6, 3))
_PRODPOLY = replace(_RESNET18, order=2, variant="prodpoly")
_PINET18 = replace(_RESNET18, order=2, variant="pinet")
_PINET18_1X1 = replace(_PINET18, variant="pinet-1x1")
_RESNET50 = replace(_RESNET34, block="bottleneck", stem="imagenet", size=224, num_classes=1000)
_IR50 = ResNetConfig(size=112, depths=(3, 4, 14, 3), block="ir", activation="prelu")

#: name -> network
RESNETS: dict[str, ResNetConfig] = {
    "resnet18": _RESNET18,
    "resnet34": _RESNET34,
    "linear-resnet18": replace(_RESNET18, activation="none"),
    "prodpoly-2211": replace(_PRODPOLY, depths=(2, 2, 1, 1)),
    "prodpoly-3322": replace(_PRODPOLY, depths=(3, 3, 2, 2)),
    "prodpoly-3432": replace(_PRODPOLY, depths=(3, 4, 3, 2)),
    "prodpoly-3332": replace(_PINET18_1X1, depths=(3, 3, 3, 2)),
    "pinet18": _PINET18,
    "pinet18-noact": replace(_PINET18, activation="none"),
    "pinet18-1x1": _PINET18_1X1,
    "pinet18-1x1-noact": replace(_PINET18_1X1, activation="none"),
    "resnet50": _RESNET50,
    "prodpoly-resnet50": replace(_RESNET50, order=2, variant="pinet", norm="tanh"),
    "ir50": _IR50,
    "prodpoly-ir50": replace(_IR50, order=2, variant="face"),
    "r-polynet18": replace(
        _PINET18,
        variant="r-polynet",
        activation="none",
        stage_pool=True,
        drop_block=0.1,
        instance_share=0.8,
    ),
}
