"""The way to an API server: kubeconfig, credentials, proxies, connections."""
