"""What `polygraph benchmark mesh --help` prints; nothing that takes time is imported for it."""

HELP = """\
usage: polygraph benchmark mesh [--data DIR ...] --out GRID [settings]

Train every model with every seed, number of latents and split, alike; a table, and rows as JSON.
What is finished is kept, what was killed goes on: call it again.

  polygraph benchmark mesh --data DIR --out GRID --models first-order full-2 pca --steps 4000
  polygraph benchmark mesh --out GRID --seeds 0,1,2 --latents 8,16       the built-in animal

data
  --data DIR ...       folders of registered meshes; or 'synthetic', the built-in animal (default)
  --kind KIND          registered (default), coma, dfaust
  --to-mm X            millimetres per unit of the files (default: 1000, metres)
  --up AXIS            x, y or z points up in pictures (default: auto, as the data say or a guess)
  --splits NAME ...    (default: interpolation)
  --every N            use one of N meshes of each split
  --frames N           meshes of the built-in animal (default: 1600)

grid
  --out GRID           folder of the grid (required)
  --models NAME ...    presets, pca, mean-shape, or patterns such as 'full-*' (default: all of order
                       2, full to order 4, first order, other operators, pca and mean-shape)
  --seeds N ...        (default: 0)
  --latents N ...      numbers per mesh (default: 16)
  --finished GRID ...  grids run elsewhere: what they finished is not trained again

training
  --config NAME        recipe: a YAML file or a name (default: mesh-benchmark)
  --steps N, --batch-size N, --learning-rate X, --loss NAME, ...
                       settings of `polygraph train mesh` that are about training hold for all runs

--help-all lists the settings of the grid, `polygraph train mesh --help-all` those of training.
"""


def text() -> str:
    """The help."""
    return HELP
