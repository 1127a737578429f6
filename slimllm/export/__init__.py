"""Verified storage of pruned models in formats that other programs read."""
