"""Measurements of models, and the significance of differences."""
