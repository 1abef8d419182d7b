"""Grids of mesh autoencoders: all competitors trained, measured and timed alike."""
