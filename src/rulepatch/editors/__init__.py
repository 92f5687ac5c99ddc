"""Ways to make an edit: one file for each, one registry.

Every editor is a function of a classifier, exemplars and keyword settings that returns an `Edit`. The first settings
are the same for all: `reference`, `site`, `strength`, `seed`, `cache`, `progress`.
"""
