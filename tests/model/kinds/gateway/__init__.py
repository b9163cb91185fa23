"""Tests of the kinds of the Gateway API."""
