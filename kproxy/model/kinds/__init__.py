"""The kinds of objects that a proxy reads, and what makes one valid."""
