"""Bodies: JSON, YAML, protobuf, and the OpenAPI document."""
