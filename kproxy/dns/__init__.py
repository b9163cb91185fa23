"""Names: a DNS server for the cluster's zone, answered from the Store (docs/names.md)."""
