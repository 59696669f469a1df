"""03, 04 and 05: arrays become a model."""
