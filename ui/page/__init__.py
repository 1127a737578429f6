"""The wiring between components and session, and our own components."""
