"""Tests of the Gateway API as kproxy serves it."""
