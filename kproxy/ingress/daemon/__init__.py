"""The running nginx: its processes, its sockets, its files and its log."""
