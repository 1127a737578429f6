"""Text in, HTML out."""
