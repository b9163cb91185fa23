"""What makes an object good: rules for its fields, and what is found wrong with them.

The kinds in `kproxy.model.kinds` share these rules.
"""
