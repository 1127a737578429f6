"""Storing pruned models, verified, in a form that other programs read."""
