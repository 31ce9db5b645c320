"""The stages of the method: plain functions from folders and numbers to a folder and numbers.

`data` and `training` serve sites and pool alike, `synthesis` is a site's, `pooling` the pool's,
`scoring` the simulation's.
"""
