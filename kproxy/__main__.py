"""`python -m kproxy`."""

from kproxy.cli import main

main.main()
