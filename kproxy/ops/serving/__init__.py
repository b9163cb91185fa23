"""HTTP for health, metrics and control: one bounded responder, and where it listens."""
