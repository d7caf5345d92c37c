"""One run's training: the trainer, losses, the reference table, checkpoints."""
