"""Long jobs, and how much of them a visitor may have."""
