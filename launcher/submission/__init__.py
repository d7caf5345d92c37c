"""From a Sweep to jobs: what happens to each run, and exactly that."""
