"""The programs of the parties, and what passes between them."""
