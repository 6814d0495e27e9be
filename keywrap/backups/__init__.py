"""Encrypted backups of wraps: what a part and a list of parts hold, and restoring from them."""
