"""Resources that a real cluster has by CustomResourceDefinitions: those of the Gateway API."""
