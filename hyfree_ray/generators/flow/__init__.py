"""Rectified flow on a small U-Net."""
