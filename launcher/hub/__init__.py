"""The Hub: sources that are read from it, models that are published there or in a folder."""
