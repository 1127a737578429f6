"""Figures and sentences about analyses, plans and runs."""
