"""What of a session outlives the program, on disk."""
