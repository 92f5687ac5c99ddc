"""Editing in the inverse direction, from outputs to inputs (thesis ch. 3)."""
