"""Models, without torch: adapters, and which files make a model."""
