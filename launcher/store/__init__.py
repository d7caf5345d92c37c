"""What is on disk below the output folder: where it lies, and how it is written and read."""
