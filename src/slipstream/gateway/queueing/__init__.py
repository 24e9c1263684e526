"""Who goes next when an engine is full."""
