"""The botocore session that every road to AWS starts from.

Which hosts are asked is for our own configuration to say. botocore takes it from more places: the
`endpoint_url` settings of the environment and of the AWS files, and its data files, which it looks
for in `~/.aws/models` and `AWS_DATA_PATH` too, before its own (`botocore.loaders`, "The Search
Path"). A file put there would choose the host that plaintext data keys are sent to.
"""

try:
    import botocore.session
    from botocore.loaders import Loader
except ImportError as error:
    raise ImportError("AWS needs: pip install 'keywrap[aws]' or 'keywrap[s3]'") from error


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
