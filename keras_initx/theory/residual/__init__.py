"""Scales and growth of residual networks."""
