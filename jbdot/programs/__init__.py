"""Whole programs over a mesh: what they send, and which line of the source asks for it."""
