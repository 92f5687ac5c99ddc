"""End-to-end workflows of the command line: making an edit within a budget, applying it, composing several."""
