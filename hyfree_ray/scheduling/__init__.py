"""Who goes first, how long things take, what a machine has room for."""
