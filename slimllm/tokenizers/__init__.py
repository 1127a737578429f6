"""Tokenizers of others: how they begin texts, and how they are used within limits."""
