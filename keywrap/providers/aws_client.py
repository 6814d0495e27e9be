"""The boto3 client of one KMS Region: its road, its time limits, its silence.

What could weaken it from outside is set here and not left to the environment: the endpoint, TLS,
proxies, retries, and botocore's logging, which at DEBUG writes whole requests. Where its endpoints
come from, that of STS included, `awssession` sees to.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

try:
    import boto3
    from botocore.config import Config
except ImportError as error:
    raise ImportError("a key in AWS KMS needs: pip install 'keywrap[aws]'") from error

from keywrap import awssession
from keywrap.providers.silence import silence

if TYPE_CHECKING:
    from botocore.session import Session
    from mypy_boto3_kms import KMSClient  # stubs: not there at run time

CONNECT_TIMEOUT_S = 3.0
DEFAULT_TIMEOUT_S = 10.0
DEFAULT_THREADS = 16


@dataclass(frozen=True, slots=True)
class AwsAccess:
    """How to reach the KMS of a Region.

    Attributes:
        endpoint: its URL, such as a VPC endpoint's; empty: the Region's public one.
        profile: the profile of the AWS configuration files that holds the credentials; empty:
            boto3 looks for them in its usual order (environment, files, instance role).
        timeout_s: how long an answer may take.
        threads: how many requests a batch has in flight.
        ca_file: certificates to trust instead of botocore's.
    """

    endpoint: str = ""
    profile: str = ""
    timeout_s: float = DEFAULT_TIMEOUT_S
    threads: int = DEFAULT_THREADS
    ca_file: Path | None = None


def kms_client(region: str, access: AwsAccess, session: "Session | None" = None) -> "KMSClient":
    """Make a KMS client; connects to nothing. A client may be shared by threads, not by forks.

    Args:
        region: the key's Region.
        access: how to reach it.
        session: to make it of, where others are to use the same credentials.

    Raises:
        botocore.exceptions.BotoCoreError: the profile or the AWS configuration cannot be used.
    """
    road = boto3.session.Session(
        region_name=region, botocore_session=session or awssession.session(access.profile)
    )
    client = road.client(
        "kms",
        endpoint_url=access.endpoint or None,
        verify=str(access.ca_file) if access.ca_file else True,
        config=awssession.client_config(
            access.timeout_s,
            CONNECT_TIMEOUT_S,
            1,  # AwsConnection retries, and knows that a rotation must not be
            Config(
                max_pool_connections=access.threads,
                parameter_validation=False,
                # botocore composes its own anew for each request, a fifth of a request's CPU.
                user_agent="keywrap boto3",
                proxies={},
            ),
        ),
    )
    silence({"boto3", "botocore", "urllib3"})
    return client
