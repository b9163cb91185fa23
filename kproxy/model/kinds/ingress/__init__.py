"""The kinds of objects that are read for Ingress, and for nothing else."""
