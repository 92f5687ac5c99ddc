"""Ways to give a region another style, one file for each."""
