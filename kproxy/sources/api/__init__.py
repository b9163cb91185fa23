"""Following an API server: client-go's Reflector, rule by rule."""
