"""Measuring models, and what measured differences mean."""
