"""Evaluation of edits: predictions before and after, metrics and reports."""
