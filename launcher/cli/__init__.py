"""What is typed: the launch, and a file for each verb."""
