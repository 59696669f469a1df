"""Notebook 00, and the small examples of the others."""
