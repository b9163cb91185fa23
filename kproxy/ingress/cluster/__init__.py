"""What Ingress reads of an API server, and writes back to it."""
