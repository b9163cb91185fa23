"""What `kproxy get gateways` and `kproxy get routes` show."""
