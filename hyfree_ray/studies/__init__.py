"""Many simulations that answer one question."""
