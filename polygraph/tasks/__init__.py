"""What the engine of :mod:`polygraph.train` is used for: a folder for each task."""
