"""Ways to find a concept in a picture: one file for each family, registered in `concepts/segment.py`."""
