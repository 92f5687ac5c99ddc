"""The method. It knows no data set, no model zoo, no disk cache and no screen.

From the ground up: `linalg` (every equation), `moments` (statistics of keys), `trace` (what a forward pass does),
`capture` (the only hooks), `sites` (where a model can be edited), `exemplars` (what a site sees of them), `changes`
(what an edit is made of), `installation` (putting changes into a network) and `edit` (the result).
"""
