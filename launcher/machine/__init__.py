"""What this machine has: packages, GPUs, accounts, the code and its state."""
