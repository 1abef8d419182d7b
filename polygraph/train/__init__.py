"""The engine of training, whatever is trained (see :mod:`polygraph.tasks`).

One loop (:mod:`~polygraph.train.loop`) with its settings (:mod:`~polygraph.train.config`, read from
the command line by :mod:`~polygraph.train.arguments`), optimizers
(:mod:`~polygraph.train.optimizer`), learning rates (:mod:`~polygraph.train.schedule`), checkpoints
(:mod:`~polygraph.train.checkpoint`), logs, batches, augmentation (:mod:`~polygraph.train.augment`)
and processes; classifiers and other supervised tasks (:mod:`~polygraph.train.supervised`). Needs
the extra ``train``.
"""
