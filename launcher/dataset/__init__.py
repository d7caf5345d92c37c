"""Data sets, without torch: those that we build, and files as the login node reads them."""
