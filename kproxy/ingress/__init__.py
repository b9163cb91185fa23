"""Ingress: from Ingress objects to a running nginx.

`routing` decides, `nginx_config` writes the decision as text, and nginx serves it.
"""
