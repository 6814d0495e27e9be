"""Key providers: one file for each kind of KEK, each an optional extra."""
