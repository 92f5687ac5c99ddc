"""Classifiers: a network with its preprocessing and class names, from many sources. One file a source, one registry."""
