"""Segmenters of concepts: one file for each family, registered in `concepts/segment.py`."""
