"""`kproxy run … -- COMMAND`: a command beside the proxy, with Services in its environment."""
