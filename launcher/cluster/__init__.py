"""Where jobs go: the schedulers, what they say of jobs, and what a process in a job knows of its own."""
