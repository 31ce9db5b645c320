"""UPerNet on a Swin transformer, from `transformers`. Nothing else imports that library.

`shape` derives the network from nnU-Net's plan, `network` builds it, `architecture` is the record.
"""
