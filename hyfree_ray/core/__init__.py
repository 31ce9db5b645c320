"""What every room stands on: errors, files, keys and stages."""
