import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import hvac
import pytest

from embedded import OpenBao, Postgres
from tests.sites import Ran, Site, terminal

NOWHERE = "127.0.0.1:1"
PASSWORD = "never-to-be-shown"


@dataclass(frozen=True)
class Case:
    """A wrong configuration, and what is said about it.

    Attributes:
        says: words of the one message.
        code: the exit code.
        reason_code: the reason code.
        words: the command that meets it.
        edit: what is done to the configuration's text; None where there is no file.
        environment: variables to set, or to unset where None.
        with_json: whether to ask with `--json` as well.
    """

    says: str
    code: int = 2
    reason_code: str = "configuration"
    words: tuple[str, ...] = ("status",)
    edit: Callable[[str], str] | None = field(default=lambda text: text)
    environment: tuple[tuple[str, str | None], ...] = ()
    with_json: bool = False


def replaced(old: str, new: str) -> Callable[[str], str]:
    def edit(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return edit


START = ("start", "migrate", "--yes")

CASES = {
    "there is no file": Case("there is no such configuration", edit=None, with_json=True),
    "it is not TOML": Case("is not TOML", edit=lambda text: text + "\n[store\n"),
    "a section is unknown": Case("[wokers]", edit=replaced("[workers]", "[wokers]")),
    "a field is unknown": Case(
        "blob_sufix", edit=replaced("blob_suffix", "blob_sufix"), with_json=True
    ),
    "a value has the wrong type": Case("lease_s", edit=replaced("lease_s = 3", 'lease_s = "3"')),
    "a variable has the wrong type": Case(
        "REWRAP_", environment=(("REWRAP_WORKERS_BATCH", "many"),)
    ),
    "a secret stands in the file": Case(
        "blob_key", edit=replaced('scheme = "direct"', 'scheme = "direct"\nblob_key = "00"')
    ),
    "the primary is not listed": Case(
        "not listed", edit=replaced('primary = "hcvault://transit/', 'primary = "hcvault://other/')
    ),
    "a legacy key is not set": Case(
        "BLOB_KEY is not set", words=("up",), environment=(("BLOB_KEY", None),)
    ),
    "a legacy key is malformed": Case(
        "it is not hex", words=("up",), environment=(("BLOB_KEY", PASSWORD),)
    ),
    "the token is not set": Case(
        "BAO_TOKEN is not set", words=START, environment=(("BAO_TOKEN", None),)
    ),
    "the store is not there": Case(
        "there is no folder",
        code=3,
        reason_code="store_unavailable",
        words=("up",),
        edit=replaced("/blobs", "/blubs"),
    ),
    "nothing runs": Case("no ledger is configured", code=3, reason_code="ledger_not_running"),
    "the ledger does not answer": Case(
        "PostgreSQL does not answer",
        code=3,
        reason_code="ledger_unavailable",
        words=("inventory",),
        with_json=True,
        environment=(("REWRAP_LEDGER_URL", f"postgresql://rewrap:{PASSWORD}@{NOWHERE}/rewrap"),),
    ),
    "the database is empty": Case(
        "does not hold the ledger",
        code=3,
        reason_code="ledger_not_migrated",
        environment=(("REWRAP_LEDGER_URL", "empty"),),
    ),
    "the broker does not answer the scheduler": Case(
        "broker",
        code=3,
        reason_code="broker_unavailable",
        words=("scheduler",),
        environment=(
            ("REWRAP_LEDGER_URL", "empty"),
            ("REWRAP_BROKER_URL", f"redis://:{PASSWORD}@{NOWHERE}/0"),
        ),
    ),
    "the broker does not answer a worker": Case(
        "broker",
        code=3,
        reason_code="broker_unavailable",
        words=("worker",),
        environment=(
            ("REWRAP_LEDGER_URL", "empty"),
            ("REWRAP_BROKER_URL", f"redis://:{PASSWORD}@{NOWHERE}/0"),
        ),
    ),
    "OpenBao does not answer": Case(
        "no answer",
        code=3,
        reason_code="kms_unavailable",
        words=START,
        edit=lambda text: replaced(address_of(text), f'"http://{NOWHERE}"')(text),
    ),
    "the token is wrong": Case(
        "the token may not do this",
        code=3,
        reason_code="permission_denied",
        words=START,
        environment=(("BAO_TOKEN", PASSWORD),),
    ),
    "the key is not derived": Case(
        "is not derived",
        code=3,
        reason_code="key_not_derived",
        words=START,
        edit=lambda text: text.replace(kek_of(text), "plain-kek"),
    ),
    "the key is not there": Case(
        "there is no such key",
        code=3,
        reason_code="key_not_found",
        words=("rotate-kek", "--yes"),
        edit=lambda text: text.replace(kek_of(text), "no-such-kek"),
    ),
    "Flower has no sign-in": Case(
        "sign-in",
        reason_code="no_sign_in",
        words=("flower",),
        environment=(("REWRAP_LEDGER_URL", "empty"), ("REWRAP_BROKER_URL", "redis")),
    ),
    "Flower has no port": Case(
        "none is wanted",
        reason_code="no_port",
        words=("flower",),
        environment=(
            ("REWRAP_LEDGER_URL", "empty"),
            ("REWRAP_BROKER_URL", "redis"),
            ("REWRAP_FLOWER_BASIC_AUTH", "operator:never-asked-for"),
        ),
    ),
    "the command is unknown": Case("No such command", reason_code="usage", words=("strat",)),
    "an option is unknown": Case(
        "No such option", reason_code="usage", words=("status", "--wach"), with_json=True
    ),
}


def value_after(text: str, name: str) -> str:
    line = next(line for line in text.splitlines() if line.startswith(f"{name} = "))
    return line.partition(" = ")[2]


def primary_of(text: str) -> str:
    return value_after(text, "primary")


def address_of(text: str) -> str:
    return value_after(text, "address")


def kek_of(text: str) -> str:
    return primary_of(text).strip('"').rpartition("/")[2]


@pytest.fixture(scope="module")
def site(new_site: Callable[..., Site], openbao: OpenBao) -> Site:
    site = new_site("wrong")
    client = hvac.Client(url=openbao.address, token=openbao.token, timeout=5)
    client.secrets.transit.create_key("plain-kek")
    client.adapter.close()
    site.make(5)
    return site


@dataclass(frozen=True)
class Answer:
    plain: Ran
    as_json: Ran | None


@pytest.fixture(scope="module")
def answers(site: Site, postgres: Postgres, redis_server: object) -> Iterator[dict[str, Answer]]:
    """What each case is answered."""
    urls = {"empty": postgres.url_of(f"empty_{uuid.uuid4().hex[:8]}"), "redis": redis_server.url}  # type: ignore[attr-defined]
    before = site.fingerprint()

    def answer(number: int, case: Case) -> Answer:
        folder = site.directory / f"case-{number}"
        folder.mkdir()
        config = folder / "rewrap.toml"
        if case.edit:
            config.write_text(case.edit(site.config.read_text()))
        changes = {name: urls.get(v, v) if v else v for name, v in case.environment}
        environment = site.environment | {
            "REWRAP_CONFIG": str(config),
            "REWRAP_LOG_FORMAT": "text",  # as on a terminal
        }
        environment = {
            name: value for name, value in {**environment, **changes}.items() if value is not None
        }
        plain = Ran(*terminal().run(case.words, environment, folder, 60))
        with_json = [*case.words, "--json"]
        as_json = (
            Ran(*terminal().run(with_json, environment, folder, 60)) if case.with_json else None
        )
        assert list(folder.iterdir()) == ([config] if case.edit else [])
        shutil.rmtree(folder)
        return Answer(plain, as_json)

    yield {name: answer(number, case) for number, (name, case) in enumerate(CASES.items())}
    assert site.fingerprint() == before


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_configuration_is_told_in_one_message_with_the_next_step(
    answers: dict[str, Answer], name: str
) -> None:
    case, plain = CASES[name], answers[name].plain
    assert plain.code == case.code, plain
    assert plain.out == ""
    told = [line for line in plain.err.splitlines() if "for trials only" not in line]
    assert len(told) == 2, plain.err
    assert told[0].startswith("rewrap: ")
    assert case.says in told[0]
    assert told[0].endswith(f" [{case.reason_code}]")
    assert told[1].startswith("next: ")
    assert len(told[1]) > len("next: ")
    assert "Traceback" not in plain.err
    assert PASSWORD not in plain.err


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.with_json])
def test_with_json_it_is_one_document_on_stdout_and_nothing_else(
    answers: dict[str, Answer], name: str
) -> None:
    case, ran = CASES[name], answers[name].as_json
    assert ran is not None
    assert ran.code == case.code
    assert ran.err == ""
    assert set(ran.document) == {"reason_code", "reason", "next_command"}
    assert ran.document["reason_code"] == case.reason_code
    assert case.says in ran.document["reason"]
    assert ran.document["next_command"]
    assert PASSWORD not in ran.out
