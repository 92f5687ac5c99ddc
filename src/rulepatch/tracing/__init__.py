"""Tracing networks: every tensor operation of a forward pass, and what can be edited; it knows nothing of edits."""
