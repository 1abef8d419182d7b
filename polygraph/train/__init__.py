"""The engine of training, whatever is trained (see :mod:`polygraph.tasks`).

One loop (:mod:`~polygraph.train.loop`) with its settings (:mod:`~polygraph.train.config`, read from
the command line by :mod:`~polygraph.train.arguments`), checkpoints
(:mod:`~polygraph.train.checkpoint`), logs, batches and processes. Needs the extra ``train``.
"""
