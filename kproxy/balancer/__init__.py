"""Which endpoint a new connection goes to: strategies, ClientIP affinity, the penalty box.

Pure: no event loop, socket, thread or clock. `now` is an argument, in seconds of a monotonic
clock; randomness is an injected `random.Random`. The state belongs to one data plane and is
used from one thread.
"""
