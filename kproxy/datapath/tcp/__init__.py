"""TCP connections: accept, dial, relay, end."""
