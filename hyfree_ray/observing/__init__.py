"""What is watched of a run and shown of it."""
