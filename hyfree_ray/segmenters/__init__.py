"""Segmentation networks. nnU-Net v2 is the method's; only `segmenters.nnunet` imports nnunetv2."""
