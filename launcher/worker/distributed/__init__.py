"""Several ranks as one job."""
