"""What runs next, and the operator's desk."""
