"""Correlation between samples in wide random networks."""
