"""The data path, in process and over real sockets, with a kernel that can be made to misbehave.

Start reading at `harness` (what a test is given), then `faulty` (the kernel that lies).
"""
