"""The botocore session that every road to AWS starts from.

Which hosts are asked is for our own configuration to say. botocore takes it from more places: the
`endpoint_url` settings of the environment and of the AWS files, and its data files, which it looks
for in `~/.aws/models` and `AWS_DATA_PATH` too, before its own (`botocore.loaders`, "The Search
Path"). A file put there would choose the host that plaintext data keys are sent to.
"""

try:
    import botocore.session
    from botocore.config import Config
    from botocore.loaders import Loader
except ImportError as error:
    raise ImportError("AWS needs: pip install 'keywrap[aws]' or 'keywrap[s3]'") from error


def client_config(
    timeout_s: float, connect_timeout_s: float, attempts: int, more: Config
) -> Config:
    """Make the configuration of a client whose road our own configuration alone decides.

    Args:
        timeout_s: of one answer, in seconds.
        connect_timeout_s: of a connection, likewise; never longer than `timeout_s` is.
        attempts: how often a request is made in all.
        more: further settings of botocore.
    """
    return Config(
        retries={"mode": "standard", "total_max_attempts": attempts},
        connect_timeout=min(connect_timeout_s, timeout_s),
        read_timeout=timeout_s,
        # Neither environment nor AWS files choose another host.
        ignore_configured_endpoint_urls=True,  # type: ignore[call-arg] # stubs lag behind
        use_fips_endpoint=False,
        use_dualstack_endpoint=False,
    ).merge(more)


def session(profile: str) -> botocore.session.Session:
    """Make a session that knows the data files of botocore's own package only.

    Configured endpoint URLs are ignored, those of STS, which is asked for a role, included.

    Args:
        profile: of the AWS configuration files; empty for the credential chain's own choice.
    """
    made = botocore.session.Session(profile=profile or None)
    loader = Loader(
        extra_search_paths=[Loader.BUILTIN_DATA_PATH], include_default_search_paths=False
    )
    made.register_component("data_loader", loader)
    made.set_config_variable("ignore_configured_endpoint_urls", True)  # noqa: FBT003
    return made
