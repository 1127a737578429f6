"""Dataclasses in, Plotly figures out."""
