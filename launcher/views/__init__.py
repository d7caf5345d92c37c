"""What is printed. Decides nothing."""
