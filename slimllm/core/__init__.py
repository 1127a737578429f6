"""Data and small rules that everything else uses."""
