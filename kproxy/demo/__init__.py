"""The demonstration: the proxy at work on one machine, without a cluster and without root."""
