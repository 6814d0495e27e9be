"""Envelope encryption for blobs: each blob has its own data key, wrapped by a KEK."""

__version__ = "0.1.0"
"""Of the library and of the service: the one place where it stands."""
