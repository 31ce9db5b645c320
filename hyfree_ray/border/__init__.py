"""The files that cross between parties: one party writes them, the other distrusts them."""
