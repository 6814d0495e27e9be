"""The scenes: where the blobs lie, what they move to, and how many times the naive way is asked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Scene:
    """One comparison.

    Attributes:
        name: what `--scene` calls it.
        title: where the blobs lie and what they move to.
        store: files, or S3 in memory.
        kek: a key file, a Transit key of OpenBao, or a key of the AWS-shaped KMS in memory.
        bar: how many times the naive way ours must be.
        blobs: blobs a round, for ours and the floor; so many shards for each worker that the ramp
            at the start and the wait for the last one at the end count for little.
        latency_ms: what S3's answers to GET and PUT and the KMS's wait for.
        naive_processes: processes of the naive way; more, so that it too hides latency.
        threads: store threads of each of our workers, and of the floor.
        kms_threads: KMS requests in flight from each of our workers, and from the floor.
    """

    name: str
    title: str
    store: Literal["files", "s3"]
    kek: Literal["local", "openbao", "aws"]
    bar: float
    blobs: int
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    naive_processes: int = 2
    threads: int = 4
    kms_threads: int = 8


FAR = {"get": 15.0, "put": 30.0, "kms": 10.0}
"""Milliseconds, as in `facts/performance.md`: a Region away it is more, in one zone less."""

SCENES = {
    scene.name: scene
    for scene in (
        Scene("files-local", "files, key file", "files", "local", 50, 60_000, threads=1),
        Scene(
            "files-openbao", "files, OpenBao in batches", "files", "openbao", 20, 40_000, threads=1
        ),
        Scene("s3-openbao", "S3, OpenBao in batches", "s3", "openbao", 25, 30_000, threads=8),
        Scene("s3-aws", "S3, AWS KMS in single calls", "s3", "aws", 10, 16_000, threads=8),
        Scene(
            "s3-aws-far",
            "S3 and AWS KMS with latency",
            "s3",
            "aws",
            10,
            8_000,
            latency_ms=FAR,
            naive_processes=16,
            threads=64,
            kms_threads=32,
        ),
    )
}
