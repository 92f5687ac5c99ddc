"""Many edits, and whole stories of editing."""
