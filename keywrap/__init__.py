"""Envelope encryption for blobs: each blob has its own data key, wrapped by a KEK."""
