"""What the API server adds to and asks of objects of each kind."""
