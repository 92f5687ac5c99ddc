"""Measurements of speed and of what edits do, each with the command that repeats it."""
