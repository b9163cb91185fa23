"""The kinds of the Gateway API (gateway.networking.k8s.io), after its version 1.6."""
