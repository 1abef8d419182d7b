"""Sounds: readers of files, features, layouts of data sets, and a cache of what was decoded."""
