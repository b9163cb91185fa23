"""How connections arrive: listening sockets, which clients are admitted, PROXY headers."""
