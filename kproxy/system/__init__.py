"""The operating system: this process and its rights, files, listening sockets and their filters."""
