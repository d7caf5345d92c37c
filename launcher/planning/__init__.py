"""From a command line, or an earlier launch, to a checked Sweep."""
