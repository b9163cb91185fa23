"""A black-box relay conformance suite for any TCP proxy.

The proxy under test listens on one address and forwards every connection to another, where the
suite itself plays the backend. Start reading at `registry` (what a case is), then `rig` (what a
case is given), then the cases: `endings`, `transfers`, `dials`, `chaos`.
"""
