"""What one browser has loaded, chosen and kept."""
