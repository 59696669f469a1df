"""Notebook 09: lesion masks for scans of patients that no model has seen."""
