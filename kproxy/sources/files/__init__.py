"""Following manifests: which files, what is in them, and what has changed."""
