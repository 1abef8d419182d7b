"""What `polygraph train denoise --help` prints; nothing that takes time is imported for it."""

HELP = """\
usage: polygraph train denoise [DIR] --out RUN [settings]

Train a denoiser of pictures, meshes or clouds: Gaussian noise, which the network learns to find.

  polygraph train denoise DIR --sigma 25 --out RUN           clean pictures of any sizes
  polygraph train denoise DIR --sigma 5,50 --out RUN         noise anywhere between the two
  polygraph train denoise DIR --config denoise-published --preset gcdn --compat gcdn --out RUN
  polygraph train denoise DIR --kind mesh --sigma 0.2 --out RUN      vertices; or --kind cloud
  polygraph train denoise --out RUN --resume                 go on, with the run's own settings

then: polygraph denoise photo.png out.png --run RUN; or body.ply out.ply

data
  DIR, --data DIR      a folder of pictures, perhaps in train/, val/ and test/; or 'scikit-image',
                       photographs that its wheel holds (default)
  --test DIR           pictures that test; else test/, or a tenth of DIR
  --channels N         1, grey values, or 3, colours (default: 1)
  --sigma S            of the noise, white being 255: 25 if not given; two: a range. Of meshes in
                       mean edge lengths (0.2), of clouds in % of the box's diagonal (1)
  --patch N            height and width of the patches (default: 42)

model
  --preset NAME        gcdn-33 (default), a small graph-convolutional denoiser that two cores train,
                       gcdn-33-local, gcdn-33-local-wide: twins of convolutions alone;
                       dncnn-10, dncnn; gcdn (published size), gcdn-local. Of meshes and clouds:
                       vertex-light (unless told), vertex-ecc, vertex-edge, vertex-local
  --width N            features
  --k N                neighbours of each pixel or vertex
  --graph KIND         light, ecc, edge-sum (of pictures), edge-max or none

training
  --out RUN            folder of the run (required)
  --steps N            optimiser steps (default: 6000)
  --batch-size N       patches per step (default: 8)
  --learning-rate X    (default: 1e-3, which falls to 0 along a cosine; the optimizer is Adam)
  --seed N             initialisation, patches and their noise (default: 0)
  --noise-seed N       of the noise that pictures are measured with (default: 0)
  --resume             go on from the last checkpoint
  --config NAME        a YAML file, the run.json of another run, or denoise-published

--help-all lists the other settings. docs/denoising.md explains them.
"""


def text() -> str:
    """The help."""
    return HELP
