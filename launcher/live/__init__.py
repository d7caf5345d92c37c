"""A sweep's own page while it runs: served on loopback, for a browser here or by way of ssh."""
