"""networking.k8s.io: Ingresses and IngressClasses."""
