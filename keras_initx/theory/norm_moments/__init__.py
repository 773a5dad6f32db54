"""Moments of the signal's norm at finite width, and of heavy-tailed weights."""
