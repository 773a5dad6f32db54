"""For tools that ask for a setup.py: all is in pyproject.toml."""

from setuptools import setup

setup()
