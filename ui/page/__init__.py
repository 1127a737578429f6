"""The wiring between components and session, and components of our own."""
