"""Papermill: notebooks, sweeps and runs."""
