"""Discovery of rules that a classifier has learnt: effects of concepts on classes, measured on counterfactuals."""
