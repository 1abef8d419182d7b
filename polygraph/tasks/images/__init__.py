"""Images: adversarial pairs, and the classifier that they are scored through."""
