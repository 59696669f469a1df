"""Scans and masks as files: NIfTI, its geometry, and what its numbers mean."""
