"""Finding, loading and copying models."""
