"""Controllers: what a real cluster's controller manager and scheduler do."""
