"""Typed records of what was measured of an edit, as its file keeps them."""
