"""Stable laws."""
