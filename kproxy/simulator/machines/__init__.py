"""Nodes and what runs on them: kubelet, and pods that answer HTTP."""
