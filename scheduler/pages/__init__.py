"""The Campaigns pages inside Flower: what the ledger knows, and asking something of it.

docs/decisions/flower-pages.md says what of Flower they hook into, and what happens if it changes.
"""
