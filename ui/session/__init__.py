"""Hold what one browser has loaded, chosen and kept."""
