"""HyFree-S3 as a Ray-distributed simulation platform: would sharing synthetic data help my site?"""

__version__ = "0.1.0"
