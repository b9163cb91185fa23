"""`kproxy` with its data plane in another process: `python -m tests.plane.program run …`."""

from kproxy import parts
from kproxy.cli import main
from tests.plane import remote

if __name__ == "__main__":
    parts.make_plane = remote.make_plane
    main.main()
