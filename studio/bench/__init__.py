"""Measurements: a table for people, one JSON line for programs."""
