"""The Python API: `hyfree_ray` offers what stands here by its name, imported when it is used."""
