"""Runs that are really killed, under the real protocol with toy stages. See docs/FAULTS.md."""
