"""The benchmark: the real thing against the naive way and against the floor, in one run."""
