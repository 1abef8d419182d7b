"""What `polygraph train mesh --help` prints; nothing that takes time is imported for it."""

HELP = """\
usage: polygraph train mesh DIR --out RUN [settings]

Train a mesh autoencoder on meshes of one topology: registered scans, frames of an animation.

  polygraph train mesh DIR --out RUN                         all .ply, .obj, .off, .stl of a folder
  polygraph train mesh DIR --out RUN --preset first-order --latent 8 --steps 4000
  polygraph train mesh --out RUN --resume                    go on, with the run's own settings

data
  DIR, --data DIR      the meshes; or 'synthetic', the built-in animal (default)
  --to-mm X            millimetres per unit of the files (default: 1000, metres)
  --split NAME         which meshes train (default: interpolation, every tenth tests)
  --kind KIND          registered (default), coma, dfaust
  --up AXIS            x, y or z points up in pictures (default: auto, as the data say or a guess)

model
  --preset NAME        {presets}
                       (default: full-2)
  --latent N           numbers per mesh (default: 16)
  --factors N,N,...    vertices divided by, per level (default: chosen from the mesh)

training
  --out RUN            folder of the run (required)
  --steps N            optimiser steps (default: 16000); --epochs N counts passes instead
  --batch-size N       meshes per step (default: 16)
  --learning-rate X    (default: 5e-3, which falls to 0 along a cosine)
  --seed N             initialisation and order (default: 0)
  --resume             go on from the last checkpoint
  --config NAME        a YAML file, the run.json of another run, or a recipe: {configs}

--help-all lists the other settings. docs/training.md explains them.
"""

#: as in `polygraph.models.mesh.presets`, where {N} is 2, 3 or 4
PRESETS = (
    "first-order, simple-N, full-N, skip-N, skip-N-code (N 2, 3, 4; each also\n"
    "                       with -noact), simple-N, full-N and skip-N with -instance or\n"
    "                       -instance-noact, simple-2, full-2 and full-3 with -batchnorm,\n"
    "                       first-order-spiralnet++, neural3dmm, spiralnet++, chebyshev, gat,\n"
    "                       feastnet, monet, edgeconv, ecc; variational: vae-first-order,\n"
    "                       vae-simple-N, vae-full-N, vae-skip-N"
)
CONFIGS = "mesh-benchmark (the\n                       default), mesh-published, mesh-quick"


def text() -> str:
    """The help."""
    return HELP.format(presets=PRESETS, configs=CONFIGS)
