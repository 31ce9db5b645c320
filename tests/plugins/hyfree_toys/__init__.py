"""One toy of each kind: a generator of images, one of pairs, an architecture and a metric."""
