"""What runs are measured by: which benchmarks are missing, MT-Bench, its judge, the scores."""
