"""Which environment variables hold keys and tokens, by the configuration."""

from workers.settings import Settings


def names(settings: Settings) -> set[str]:
    """Return the names of the variables that hold keys and tokens; only workers get these."""
    keys = settings.keywrap.keys
    secret = {table.variable or name for name, table in keys.env.items()}
    secret |= {table.token_env for table in keys.vault.values() if table.token_env}
    secret |= {table.pin_env for table in keys.pkcs11.values()}
    secret |= {table.entropy_env for table in keys.dpapi.values()}
    # DPAPI protects what these hold; still, it is a wrapped KEK, and only workers open it.
    secret |= {table.protected.removeprefix("dpapi:") for table in keys.env.values()}
    return secret


OF_LIBRARIES = frozenset(
    {
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AZURE_CLIENT_SECRET",
        "FLOWER_BASIC_AUTH",
        "FLOWER_COOKIE_SECRET",
        "FLOWER_OAUTH2_SECRET",
        "REWRAP_FLOWER_BASIC_AUTH",
    }
)
"""Variables that libraries read by themselves; no line of a log shows what they hold."""


def of_stores(settings: Settings) -> set[str]:
    """Return the variables that open the stores of blobs and backups; Flower gets none of these."""
    stores = settings.keywrap.store, settings.backup.store
    return {name for store in stores if store for name in (store.account_key_env, store.sas_env)}


def of_webhooks(settings: Settings) -> set[str]:
    """Return the variables that hold URLs of webhooks; only the scheduler gets these."""
    return {hook.url_env for hook in settings.alerts.webhooks.values() if hook.url_env}
