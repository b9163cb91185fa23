"""From values to tables, YAML, JSON and templates."""
