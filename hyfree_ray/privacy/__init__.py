"""What keeps real images from leaving in a synthetic disguise."""
