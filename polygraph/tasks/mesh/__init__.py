"""Mesh autoencoders: training, finished runs, walks in their codes."""
