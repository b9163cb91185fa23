"""What is compared: kproxy, its peers, the kernel, and nothing at all."""
