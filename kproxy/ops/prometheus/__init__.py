"""Counters as metrics, in slices that hold no relay up."""
