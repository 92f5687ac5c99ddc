"""Finding rules that a classifier has learnt: what a concept is to a class, measured on counterfactuals."""
