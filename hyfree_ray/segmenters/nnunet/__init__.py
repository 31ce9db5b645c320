"""nnU-Net v2 through its Python API (Isensee et al., Nature Methods 2021). Nothing else imports it.

`data` plans and preprocesses, `train` trains, `model` holds a trained network and predicts.
"""
