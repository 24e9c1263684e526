"""Launches, watches and stops the real `tritonserver` on a rendered model repository."""
