"""06: what a model is worth."""
