"""HTML made from figures, runs and text."""
