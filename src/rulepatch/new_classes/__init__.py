"""Adding a class from exemplars (thesis ch. 4)."""
