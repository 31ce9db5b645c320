"""What a user asks for, resolved to numbers."""
