"""Estimates from the weights of a trained network."""
