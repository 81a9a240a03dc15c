"""Sessions: one person's work on one image, without a window, a model or a framework."""
