"""Dashboards: the tracker's process beside a training, its backends, what is opened and uploaded later."""
