"""Load generators, and the servers that answer them."""
