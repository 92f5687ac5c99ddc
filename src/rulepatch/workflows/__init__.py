"""What a command does, whole: making an edit within a budget, applying it, composing several."""
