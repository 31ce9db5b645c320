"""What adversarial generators share: layers, filters, losses, augmentation, growth, training."""
