"""The kinds of load. Each module has one or more; `catalogue` lists them all."""
