"""What tests of Ingress have in common: objects, a real nginx, a reader of its configuration."""
