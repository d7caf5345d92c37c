"""Data sets with torch's libraries: rows, columns, token ids."""
