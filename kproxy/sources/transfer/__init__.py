"""What an API server sends, taken apart as it arrives, and how long to wait after a failure."""
