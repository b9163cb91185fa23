"""The rules of Ingress, one subject a module; `kproxy.ingress.routing` applies them."""
