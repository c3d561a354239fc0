"""Measurements of jbdot, each a module: `python -m benchmarks.dispatch`."""
