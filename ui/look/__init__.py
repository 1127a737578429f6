"""Colours, words and numbers as people see them."""
