"""What operators see: log, metrics, health, and the control socket."""
