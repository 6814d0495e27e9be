"""DPAPI: what Windows' `CryptProtectData` wraps, read strictly and on any host."""
