"""What a userspace proxy costs, measured on the reader's machine beside its peers."""
