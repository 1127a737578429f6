"""The long jobs of the page."""
