"""Plotly figures made from the dataclasses of the library."""
