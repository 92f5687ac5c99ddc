"""An example of a package that adds a segmenter, a model and an editor to rulepatch (docs/plugins.md)."""
