"""The data path: client byte to backend byte, and nothing else.

It owns raw non-blocking sockets in one edge-triggered epoll of its own (`poller`); asyncio and
uvloop see only that epoll's file descriptor. It knows no Service, no Kubernetes and no
configuration: a `Picker` names backends, numbers arrive as arguments.
"""
