"""Long jobs, and limits on what one visitor may use."""
