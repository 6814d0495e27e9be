"""`[keys.aws."<key ARN>"]`: a key of AWS KMS."""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from keywrap.kms import KeyProvider
from keywrap.providers.aws_arn import SCHEME, region_of
from keywrap.tables.common import ConfigError, certificates, check_address, read_table

PREFIX = SCHEME


class AwsKeyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key of AWS KMS: `[keys.aws."<key ARN>"]`. The ARN says the Region.

    Attributes:
        endpoint: the URL to ask, such as a VPC endpoint's; empty: the Region's public one. No
            environment variable and no AWS file changes it.
        profile: the profile of the AWS files that holds the credentials; empty: boto3 looks for
            them in its usual order.
        timeout_s: how long an answer may take.
        threads: how many requests a batch has in flight.
        ca_file: certificates to trust instead of botocore's.
        allow_http: whether data keys may cross a network in clear. Without it, `http://` is for
            this host only.
        client: `lean` sends the requests of every blob without the layers of boto3's client, at a
            third of its CPU; `boto3` is the plain way.
    """

    endpoint: str = ""
    profile: str = ""
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=300)] = 10.0
    threads: Annotated[int, msgspec.Meta(ge=1, le=256)] = 16
    ca_file: str = ""
    allow_http: bool = False
    client: Literal["lean", "boto3"] = "lean"

    @property
    def road(self) -> tuple[str, str, str]:
        """What two keys must share for one client to reach both."""
        return self.endpoint, self.profile, self.ca_file


def read(arn: str, value: object) -> AwsKeyConfig:
    """Read and check one table.

    Raises:
        ConfigError: something is unknown, of another type or contradicts the rest.
    """
    try:
        region_of(arn)
    except ValueError as error:
        raise ConfigError(
            "[keys.aws]",
            str(error),
            next_command=(
                '[keys.aws."arn:aws:kms:eu-west-1:111122223333:'
                'key/1234abcd-12ab-34cd-56ef-1234567890ab"]'
            ),
        ) from None
    table = read_table(_place(arn), value, AwsKeyConfig)
    if table.endpoint:
        check_address(
            f"{_place(arn)} endpoint",
            table.endpoint,
            allow_http=table.allow_http,
            example="https://vpce-0123-abcd.kms.eu-west-1.vpce.amazonaws.com",
        )
    return table


def open_provider(
    arn: str,
    tables: Mapping[str, AwsKeyConfig],
    environ: Mapping[str, str],  # noqa: ARG001 - boto3 looks for credentials itself
) -> KeyProvider:
    """Make the provider of a KMS key; connects to nothing.

    Args:
        arn: the key's name in `tables`.
        tables: every table of this kind; keys that the same client reaches are siblings.
        environ: the environment variables.

    Raises:
        ConfigError: the extra is not installed, or there is no such certificate file.
    """
    table, place = tables[arn], _place(arn)
    try:
        # Only who lists such a key needs the extra.
        from keywrap.providers import aws, aws_client, aws_wire  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(place, str(error), next_command="pip install 'keywrap[aws]'") from error
    region = region_of(arn)
    access = aws_client.AwsAccess(
        endpoint=table.endpoint,
        profile=table.profile,
        timeout_s=table.timeout_s,
        threads=table.threads,
        ca_file=certificates(place, table.ca_file),
    )
    siblings = frozenset(
        PREFIX + other
        for other, its in tables.items()
        if other != arn and region_of(other) == region and its.road == table.road
    )
    make_client = aws_wire.lean_client if table.client == "lean" else aws_client.kms_client
    return aws.AwsKeyProvider(
        arn,
        lambda: make_client(region, access),
        siblings=siblings,
        threads=table.threads,
    )


def _place(arn: str) -> str:
    return f'[keys.aws."{arn}"]'
