"""kproxy as users run it: processes, real programs, real sockets on loopback."""
