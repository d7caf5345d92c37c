"""What this machine has: packages, GPUs, accounts, disk, the code and its state; and what a path means here."""
