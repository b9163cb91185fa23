"""Versions of an API that are served and not stored."""
