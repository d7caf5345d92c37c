"""Models with torch: where weights lie, tokens, templates, memory."""
