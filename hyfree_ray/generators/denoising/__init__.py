"""What the generators share that draw an image out of noise: a U-Net, its training, sampling."""
