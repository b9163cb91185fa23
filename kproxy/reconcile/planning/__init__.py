"""What one Service needs of the data plane: pure functions of its objects."""
