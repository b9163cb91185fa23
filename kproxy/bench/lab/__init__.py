"""Where a measurement takes place: processes, networks, rounds, recordings."""
