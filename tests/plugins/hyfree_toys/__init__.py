"""One toy of each kind: generators of images and of pairs, an architecture, a regime, a metric."""
