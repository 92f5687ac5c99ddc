"""The method. It knows no data set, no model zoo, no disk cache and no screen.

From the ground up: `linalg` (every equation), `moments` (statistics of keys), `trace` (what a forward pass does),
`capture` (the only hooks), `sites` (where a model can be edited), `exemplars` (what a site sees of them), `parts`
(what is changed at each site) and `edit` (the result).
"""
