"""An embedded world: scenes in which every concept has an exact mask, and a classifier trained in it."""
