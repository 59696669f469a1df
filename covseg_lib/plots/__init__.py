"""Every figure. Functions return a Figure and never show it."""
