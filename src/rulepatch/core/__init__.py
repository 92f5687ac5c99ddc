"""The method, independent of data sets, model zoos, disk caches and displays.

From the lowest module up: `linalg` (equations), `moments` (statistics of keys), `exemplars` (images with masks),
`observations` (activations of a site on them), `changes` (parts of an edit), `installation` (patching a network) and
`edit` (the result).
"""
