"""Devices and processes: the mesh, what lies where on it, and how the processes of a job meet, speak and stop."""
