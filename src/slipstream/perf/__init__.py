"""Measurements of the served system, written down with their provenance."""
