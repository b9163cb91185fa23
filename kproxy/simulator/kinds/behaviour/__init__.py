"""How a simulated pod behaves, beyond whether and when it answers."""
