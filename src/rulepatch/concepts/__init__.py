"""Where a concept is in pictures, and pictures in which it is replaced."""
