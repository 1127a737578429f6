"""Texts, and the moments of what a model's layers read of them."""
