"""A job's part of each benchmark."""
