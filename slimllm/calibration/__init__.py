"""Texts, and the moments of what a model's layers read from them."""
