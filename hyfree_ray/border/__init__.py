"""What crosses between parties, made by one and distrusted by the other."""
