"""Classifiers of point clouds."""
