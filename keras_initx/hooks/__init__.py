"""Hooks into the layers of a running model."""
