"""What `polygraph train gan --help` prints; nothing that takes time is imported for it."""

HELP = """\
usage: polygraph train gan [DIR] --out RUN [settings]

Train a generator of images against a critic.

  polygraph train gan DIR --out RUN --preset small/edge-k8           a folder of pictures
  polygraph train gan DIR --kind mnist --out RUN                     also fashion-mnist, cifar10
  polygraph train gan --out RUN --resume                             with the run's own settings

data
  DIR, --data DIR      pictures of any size; or 'glyphs', built-in digits (default)
  --kind KIND          folder (default of DIR), mnist, fashion-mnist, cifar10
  --size N             height and width of images and networks (default: the preset's, mostly 32)

model
  --preset NAME        digits (default); thesis/X, thesis/X-b32 and small/X with X baseline,
                       attention, edge-kK, edge-max-kK, ecc-kK, light-kK (K 8, 16, 32), and all but
                       the first also as critic-... (the layer is there alone) and both-...;
                       small/ccp, small/ncp, small/ncp-skip, small/prodpoly;
                       linear/ccp, linear/ncp, linear/ncp-skip, linear/prodpoly;
                       pi/dcgan, pi/dcgan-64, pi/progan, pi/progan-mapping, pi/sngan, pi/sngan-ncp,
                       pi/sngan-prodpoly, pi/sngan-residual-poly, pi/ncp-mapping, pi/ccp, pi/ncp,
                       pi/ncp-skip and pi/prodpoly, these four also with -residual;
                       pi/prodpoly-sn, pi/style, pi/style-ncp
  --latent N           numbers that an image is made from

training
  --out RUN            folder of the run (required)
  --steps N            generator steps (default: the preset's; digits: 1000)
  --batch-size N       images per step
  --learning-rate X    of both networks
  --score-images N     images that every validation scores by FID; needs labels (default: 0, none)
  --seed N             initialisation and order (default: 0)
  --resume             go on from the last checkpoint
  --config NAME        a YAML file, or the run.json of another run

--help-all lists the other settings. docs/training.md explains them.
"""


def text() -> str:
    """The help."""
    return HELP
