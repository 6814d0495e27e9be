"""The tables of the configuration that `keywrap` reads, one module for each."""
