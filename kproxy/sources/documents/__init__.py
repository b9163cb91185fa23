"""YAML and JSON as kubectl reads them, one document after the other, at a bounded cost."""
