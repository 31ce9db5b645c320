"""StyleGAN2 shaped like nnU-Net's plan."""
