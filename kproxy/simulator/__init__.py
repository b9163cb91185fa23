"""A Kubernetes cluster in memory: an API server that kubectl works with, and what runs on it.

`storage` keeps the objects, `registry` the rules for changing them, and `apiserver` serves both
over HTTP. The controllers call the registry directly.
"""
