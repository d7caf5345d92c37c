"""The report's figures, a file for each."""
