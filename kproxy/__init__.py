"""kproxy: a userspace Kubernetes service proxy.

Start reading at `kproxy.server`; `docs/tour.md` lists the files in reading order.
"""

__version__ = "0.1.0"
