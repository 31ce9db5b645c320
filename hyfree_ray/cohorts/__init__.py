"""Data sets as they are, checked, and partitioned into sites; the phantom."""
