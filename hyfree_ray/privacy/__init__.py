"""Tests and filters that stop a real image from leaving as a synthetic one."""
