"""The demo, and comparisons of methods on the same exemplars, tests and budget."""
