"""Training.

One loop for every kind of model (:mod:`~polygraph.train.loop`), mesh autoencoders
(:mod:`~polygraph.train.mesh`), finished runs (:mod:`~polygraph.train.run`), grids of them
(:mod:`~polygraph.train.grid`), small grids with pictures (:mod:`~polygraph.train.compare`),
checkpoints (:mod:`~polygraph.train.checkpoint`). Needs the extra ``train``.
"""
