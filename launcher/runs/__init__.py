"""Runs that are there: their states, cancelling, collecting."""
