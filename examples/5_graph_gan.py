"""
A graph GAN on images
=====================

A generator whose layers see, beside the usual window of pixels, the pixels anywhere in the image
whose features are most alike: a graph convolution on an image (Valsesia, Fracastoro and Magli; the
layer is `NonLocalGraphConv2d`). The graph is made anew in every layer, by `pixel_knn`.
"""

# %%
# Neighbours of pixels
# --------------------
# The eight pixels whose features are nearest, outside of the 3 x 3 window that a convolution sees
# already.
import tempfile

import matplotlib.pyplot as plt
import torch

from polygraph.data import ImageDataConfig, open_images
from polygraph.models import GraphGenerator, GraphGeneratorConfig
from polygraph.nn import pixel_knn
from polygraph.report.image_grid import image_grid
from polygraph.tasks import gan

torch.manual_seed(0)
digits = open_images(ImageDataConfig(kind="glyphs", num_images=600))
picture = torch.tensor(digits.images[3:4]).float() / 255
patches = torch.nn.functional.unfold(picture, 3, padding=1).reshape(1, 9, 32, 32)
index, dist2 = pixel_knn(patches, k=8, exclude_radius=1)  # [1, 1024, 8]

figure, axes = plt.subplots(1, 3, figsize=(7.5, 2.7), layout="constrained")
for place, pixel in zip(axes, (32 * 10 + 16, 32 * 18 + 19, 32 * 4 + 4)):
    place.imshow(picture[0, 0], cmap="gray_r")
    rows, columns = index[0, pixel] // 32, index[0, pixel] % 32
    place.scatter(columns, rows, color="#5b2a86", s=30, label="neighbours")
    place.scatter(pixel % 32, pixel // 32, color="#e8743b", s=60, marker="s", label="pixel")
    place.set_axis_off()
axes[0].legend(fontsize=7)
plt.show()

# %%
# The generator
# -------------
# ``graph`` chooses the convolution: EdgeConv, ECC, lightweight ECC, or attention in its place. The
# larger the rank or the number of hidden features, the more parameters a graph layer has.
for graph in ("none", "edge-sum", "ecc", "light"):
    config = GraphGeneratorConfig(latent_channels=32, channels=(64, 64, 32, 16), graph=graph)
    generator = GraphGenerator(config)
    count = sum(p.numel() for p in generator.parameters())
    print(f"{graph:9}{count:>10,} parameters", generator(torch.randn(2, 32)).shape)

# %%
# Train it
# --------
# The preset ``digits`` trains for 1,000 steps (``make demo-gan``, minutes); here it stops when
# strokes begin to show.
run = gan.train(digits, tempfile.mkdtemp(), preset="digits", steps=160, batch_size=16, seed=0)
print(run)

# %%
# Samples, and walks between pairs of them, from the averaged generator:
samples = run.sample(24, seed=1)
walks = run.interpolate(3, 8, seed=2)
# sphinx_gallery_thumbnail_number = 2
figure, axes = plt.subplots(2, 1, figsize=(6, 5), layout="constrained")
for place, shown, title in zip(axes, (samples, walks), ("samples", "walks between two images")):
    place.imshow(image_grid(shown.numpy(), 8).squeeze(), cmap="gray")
    place.set_title(title, fontsize=10)
    place.set_axis_off()
plt.show()

# %%
# What longer training gives, with scores, beside generators with convolutions and polynomials
# alone: :doc:`results </docs/results/images>`.
#
# From the command line: ``polygraph train gan --preset small/edge-k8 --help``.
