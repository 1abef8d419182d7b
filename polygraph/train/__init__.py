"""Training: one loop for every kind of model (:mod:`~polygraph.train.loop`), mesh autoencoders (:mod:`~polygraph.train.mesh`),
comparisons (:mod:`~polygraph.train.compare`) and checkpoints (:mod:`~polygraph.train.checkpoint`). Needs the extra ``train``.
"""
