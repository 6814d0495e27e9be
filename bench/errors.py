"""The one error of the benchmark."""


class BenchError(Exception):
    """The benchmark cannot go on, or a side did not do what it is measured for."""
