"""Doubles that behave like the real thing, and the suites that every real thing must pass."""
