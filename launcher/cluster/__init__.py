"""Where jobs go: the schedulers, and what they say of jobs."""
