"""Decisions about lists and watches: what is requested, and when. They have no effects."""
