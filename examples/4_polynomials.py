"""
Polynomial networks and their degree
====================================

A polynomial network (Π-net) multiplies features with features. Of a layer without activations one
can say exactly what it computes: a polynomial of known degree. This tutorial builds such layers
over two kinds of linear operators, measures their degree by finite differences, and shows what a
degree is good for.
"""

# %%
# One recursion, any linear operator
# ----------------------------------
# ``NCP`` computes ``x₁ = z`` and ``xₙ = (Aₙ z) * (Sₙ xₙ₋₁) + Aₙ z``. It asks for a
# function that makes the operators A and S: linear layers, convolutions, spirals, graph layers.
# Products may be normalised (``norm``), which keeps high orders trainable; ``"none"`` is the bare
# polynomial.
import matplotlib.pyplot as plt
import torch

from polygraph.analysis import polynomial_degree
from polygraph.data import make_creature
from polygraph.mesh import spiral_table
from polygraph.nn import CCP, NCP, NCPSkip, ProdPoly, Simple, SpiralConv

torch.manual_seed(0)


def linear(i, o, bias):
    """A fully connected operator."""
    return torch.nn.Linear(i, o, bias=bias)


layer = NCP(linear, 3, 8, order=3)
print(layer)
print(layer(torch.randn(5, 3)).shape)

# %%
# Over spiral convolutions of a mesh, the same class:
animal = make_creature(num_frames=4)
spirals = torch.tensor(spiral_table(animal.template, animal.faces))


def spiral(i, o, bias):
    """A spiral convolution on the animal."""
    return SpiralConv(i, o, spirals, bias)


on_mesh = NCP(spiral, 3, 8, order=2)
print(on_mesh(torch.tensor(animal.vertices)).shape, "of [4, 1922, 3]")


# %%
# Its degree, measured
# --------------------
# Along a line a polynomial of degree n is one in a single variable: all finite differences above
# the n-th vanish. ``polynomial_degree`` looks for the last that does not.
def degree_of(block):
    """Degree in the input, in float64, of a block from 3 numbers to 8."""
    return polynomial_degree(block.double(), (3,))


for family in (Simple, CCP, NCP, NCPSkip):
    degrees = [degree_of(family(linear, 3, 8, order=n, norm="none")) for n in (1, 2, 3, 4)]
    print(f"{family.__name__:8} orders 1 to 4 have degrees {degrees}")

# %%
# Degrees multiply when blocks follow each other: that is ``ProdPoly``, whose degree grows
# exponentially with its depth while its parameters grow linearly.


def deep(blocks, order):
    """Blocks of one order, one after the other."""
    return ProdPoly(
        *(NCP(linear, 3 if n == 0 else 8, 8, order=order, norm="none") for n in range(blocks))
    )


def degree_and_size(net):
    """Measured degree, and the number of parameters."""
    degree = polynomial_degree(net.double(), (3,))
    return degree, sum(p.numel() for p in net.parameters())


single = [degree_and_size(NCP(linear, 3, 8, order=n, norm="none")) for n in (2, 4, 8, 16)]
product = [degree_and_size(deep(n, 2)) for n in (1, 2, 3, 4)]
figure, axes = plt.subplots(figsize=(6.5, 3.4), layout="constrained")
axes.plot(*zip(*single), "o-", color="#e8743b", label="one NCP")
axes.plot(*zip(*product), "s-", color="#5b2a86", label="ProdPoly of blocks of degree 2")
axes.set_xlabel("degree, measured")
axes.set_ylabel("parameters")
axes.set_xticks([2, 4, 8, 16])
axes.legend()
plt.show()

# %%
# An activation ends it: there is no degree any more.
broken = NCP(linear, 3, 8, order=2, norm="none", activation="elu").double()
print(polynomial_degree(broken, (3,)))

# %%
# What a degree is good for
# -------------------------
# Where the target is a polynomial, a layer of its degree learns it exactly, outside the data too.
# A linear layer cannot, and a network with ReLU comes near where it was trained and nowhere else.
line = torch.linspace(-3, 3, 200)[:, None]
inside = torch.rand(512, 1) * 2 - 1


def wave(x):
    """A polynomial of degree 3."""
    return x**3 - x


nets = {
    "degree 1": NCP(linear, 1, 16, order=1, norm="none"),
    "degree 3": NCP(linear, 1, 16, order=3, norm="none"),
    "ReLU": torch.nn.Sequential(torch.nn.Linear(1, 16), torch.nn.ReLU()),
}
figure, axes = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
axes.plot(line, wave(line), color="black", linewidth=4, alpha=0.25, label="target")
for (name, net), colour in zip(nets.items(), ("#9aa5b1", "#5b2a86", "#e8743b")):
    net = torch.nn.Sequential(net, torch.nn.Linear(16, 1))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(800):
        optimizer.zero_grad()
        (net(inside) - wave(inside)).square().mean().backward()
        optimizer.step()
    axes.plot(line, net(line).detach(), color=colour, label=name)
axes.axvspan(-1, 1, color="#5b2a86", alpha=0.07)
axes.set_ylim(-8, 8)
axes.set_xlabel("x (trained within the band)")
axes.legend()
plt.show()

# %%
# Where the target is no polynomial, the same property is a danger: outside of the data a polynomial
# of high degree grows without bound. What this means for meshes is
# :doc:`measured </docs/results/meshes>`.

# %%
# What each degree does
# ---------------------
# About a point c a polynomial is a sum of parts of one degree each, and each part is the inner
# product of the input with a template: ``f(c + h) = f(c) + Σ ⟨Tₙ, h⟩``. ``degree_templates`` finds
# them for any polynomial network, however deep, without writing its tensors down. T₁ is the same
# for all inputs, as in a linear network; the others change with the input.
#
# Here a network of degree 4 tells the built-in digits apart, half of which are inverted: black on
# white and white on black about the mean. No linear map can, for what it says of x is the opposite
# of what it says of -x. Even degrees can.
from polygraph.analysis import degree_templates
from polygraph.data import ImageDataConfig, open_images

digits = open_images(ImageDataConfig())


def small(rows):
    """Digits of 16 x 16 pixels about the mean of all, half of them inverted; labels."""
    images = torch.nn.functional.avg_pool2d(digits.batch(rows), 2).flatten(1)
    signs = torch.randint(0, 2, (len(rows), 1)) * 2.0 - 1
    return signs * (images - images.mean(0)), torch.tensor(digits.labels[rows])


pixels, labels = small(digits.train)
reader = ProdPoly(
    NCP(torch.nn.Linear, 256, 64, order=2, norm="none"),
    NCP(torch.nn.Linear, 64, 10, order=2, norm="none"),
)
optimizer = torch.optim.Adam(reader.parameters(), 2e-3, weight_decay=1e-3)
for _ in range(600):
    rows = torch.randint(0, len(pixels), (128,))
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(reader(pixels[rows]), labels[rows]).backward()
    optimizer.step()

held_out, truth = small(digits.test)
print(f"degree {reader.degree}, {(reader(held_out).argmax(1) == truth).float().mean():.0%} right")

shown = [int((truth == digit).nonzero()[0]) for digit in (0, 3, 8)]
found = degree_templates(reader.double(), held_out[shown], reader.degree)
figure, panels = plt.subplots(3, 5, figsize=(7.5, 4.8), layout="constrained")
for row, (sample, axes) in enumerate(zip(shown, panels)):
    digit = int(truth[sample])
    axes[0].imshow(held_out[sample].view(16, 16), cmap="gray", vmin=-2, vmax=2)
    axes[0].set_ylabel(f"digit {digit}")
    for degree in range(1, 5):
        template = found.templates[degree - 1, row, digit].view(16, 16)
        size = float(template.abs().max())
        axes[degree].imshow(template, cmap="RdBu_r", vmin=-size, vmax=size)
        axes[degree].set_title(f"T$_{degree}$: {float(found.terms[degree, row, digit]):+.1f}")
for axes in panels.flat:
    axes.set(xticks=[], yticks=[])
plt.show()

# %%
# The number is what the template adds to the digit's logit: degrees 2 and 4 do the work, and their
# templates show digits. The parts add up to the network, to rounding:
print(f"largest deviation {found.residual:.0e}")
print("share of each degree:", found.energy().numpy().round(2))
