"""What the proxy is doing, as plain data, and the control socket that gives it out."""
