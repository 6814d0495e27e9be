"""Every command line of README and docs is typed as it stands, on one node that README makes.

What cannot run here says so in the docs (`# needs Docker`), and is parsed by
tests/unit/test_documented_commands.py.
"""

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from keywrap.dpapi import credentials
from keywrap.signing import SigningKey
from keywrap.testing.dpapi import Account, make_master_key_file
from scheduler.approving import KEY_FILE
from tests.documents import ROOT, Line, fences, lines, pages
from tests.hooks import Receiver, receiver
from tests.offices import Office

ELSEWHERE = {"docs/flower.md": "tests/integration/test_flower_example.py"}
"""Pages whose lines another test executes."""

OPTIONAL = {"jq"}
"""Programs without which a machine may be: their lines are left out there."""

NOT_ZERO = {
    ("docs/audit.md", "rewrap audit reconcile"): (1, "what `preflight` opened is noted by nobody"),
    ("docs/retire.md", "rewrap retire"): (4, "the old wraps beside the new ones still need it"),
    ("docs/retire.md", "rewrap retire --status"): (1, "it says that it was refused"),
    ("docs/runbook.md", "rewrap audit reconcile"): (1, "as above"),
    ("docs/runbook.md", "rewrap start migrate"): (1, "one of its sidecars is damaged"),
    ("docs/runbook.md", "rewrap sweep"): (4, "the grace time is a day at the least"),
}
"""The exit codes that are meant not to be 0, by page and the beginning of the line, and why."""


def typed(page: str) -> list[Line]:
    """Return the lines of a page that are typed here."""
    return [line for line in lines(page) if not line.needs and line.program != "make"]


PLAYED = [page for page in pages() if typed(page) and page not in ELSEWHERE]
# The runbook ends with a lost ledger.
ORDER = sorted(PLAYED, key=lambda page: (page != "README.md", page == "docs/runbook.md", page))


def without_comment(line: Line) -> str:
    return re.sub(r"\s+#.*", "", line.text)


def meant(line: Line) -> int:
    """Return the exit code that a line is meant to have."""
    text = without_comment(line)
    found = [
        code
        for (page, words), (code, _) in NOT_ZERO.items()
        if page == line.page and all(word in text.split() for word in words.split())
    ]
    return found[-1] if found else 0


class Play:
    """One page, typed from its first line to its last; what the page tells in words is done here.

    Args:
        office: where.
        hook: who takes the alerts.
    """

    def __init__(self, office: Office, hook: Receiver) -> None:
        self.office, self._hook = office, hook
        self._frozen = ExitStack()
        self._before: dict[str, list[tuple[str, Callable[[], None]]]] = {
            "README.md": [
                ("rewrap backup-key", self._edit),
                ("rewrap config check", self._make_another_kek),
            ],
            "docs/approvals.md": [
                ("rewrap approval-key", self._migrate_more),
                ("export", self._want_two_people),
                ("rewrap approve 1", self._be_bob),
            ],
            "docs/backup.md": [("rewrap backup restore --from", self._lose_sidecars)],
            "docs/certificate.md": [("rewrap certificate N", self._certify_the_migration)],
            "docs/keys.md": [("rewrap dpapi-ring", self._bring_master_keys)],
            "docs/permissions.md": [("rewrap policy aws", self._list_keys_of_every_cloud)],
            "docs/runbook.md": [
                ("rewrap cutover off", self._obey_for_a_second),
                ("rewrap start migrate", self._damage),
                ("rewrap retry", self._mend),
                ("rewrap rotate-kek --urgent", self._freeze),
                ("rewrap undo", self._thaw),
                ("rewrap rebind", self._move),
                ("rewrap scheduler", self._lose_postgres),
            ],
        }

    def play(self, page: str) -> None:
        """Type a page."""
        shell = self.office.shell
        environment, folder = dict(shell.environment), shell.folder
        steps = list(self._before.get(page, []))
        section = ""
        for line in typed(page):
            if page in {"docs/pace.md", "docs/when.md"} and line.section != section:
                self._begin_with_nothing_open()
            section = line.section
            if steps and line.text.startswith(steps[0][0]):
                steps.pop(0)[1]()
            if line.program not in OPTIONAL or shutil.which(line.program):
                self._type(line)
        self._frozen.close()
        assert steps == [], f"{page} has no such line any more"
        if page != "README.md":
            shell.environment, shell.folder = environment, folder

    def _type(self, line: Line) -> None:
        ran = self.office.play(line)
        assert ran.code == meant(line), f"{line.page}: {line.text}\n{ran.out}\n{ran.err}"

    def _begin_with_nothing_open(self) -> None:
        self._freeze()
        for campaign in self.office.open_campaigns():
            assert self.office.shell.type(f"rewrap cancel {campaign}").code == 0
        self.office.settle()

    def _freeze(self) -> None:
        self._frozen.close()
        self._frozen.enter_context(self.office.frozen())

    def _thaw(self) -> None:
        self._frozen.close()
        self.office.settle()

    def _edit(self) -> None:
        (table,) = [content for info, content in fences("README.md") if info == "toml"]
        (self.office.folder / "rewrap.toml").write_text(self.office.here(table + FURNITURE))
        (self.office.folder / "hook.url").write_text(self._hook.url)
        self._bring_trails()

    def _make_another_kek(self) -> None:
        made = self.office.type("bao write -f transit/keys/next-kek type=aes256-gcm96 derived=true")
        assert made.code == 0, made

    def _migrate_more(self) -> None:
        assert self.office.type("rewrap start migrate --wait").code == 0
        self._live_as("alice")

    def _live_as(self, name: str) -> None:
        home = self.office.folder / name
        home.mkdir(exist_ok=True)
        self.office.shell.environment |= {"HOME": str(home)}

    def _want_two_people(self) -> None:
        bob = self.office.folder / "bob"
        bob.mkdir()
        keys = {
            "alice": SigningKey.load(self.office.folder / "alice/approval.key"),
            "bob": SigningKey.create(bob / "approval.key"),
        }
        people = "\n".join(f'{name} = "{key.public}"' for name, key in keys.items())
        self.office.configure(f'[approvals]\nrequired = ["undo"]\n[approvals.people]\n{people}')
        self.office.restart("scheduler")

    def _be_bob(self) -> None:
        self._live_as("bob")
        self.office.shell.environment[KEY_FILE] = str(self.office.folder / "bob/approval.key")

    def _bring_trails(self) -> None:
        self.office.place("/mnt/host2/audit").mkdir(parents=True)
        trail = self.office.folder / ".rewrap-state/audit"
        self.office.place("/mnt/host1").mkdir()
        self.office.place("/mnt/host1/audit").symlink_to(trail)
        (self.office.folder / "app-audit.jsonl").touch()

    def _lose_sidecars(self) -> None:
        office = self.office
        shutil.copytree(office.folder / ".rewrap-state/backups", office.place("/mnt/backups"))
        shutil.copy(office.folder / "backup.key", office.place("/media/offline"))
        config = (office.folder / "rewrap.toml").read_text().partition("[backup]")[0]
        (office.shell.folder / "rewrap.toml").write_text(config)
        for blob_id in office.blobs[:6:2]:
            office.sidecar(blob_id).unlink()

    def _certify_the_migration(self) -> None:
        office = self.office
        office.campaign = 3
        office.shell.environment["REWRAP_CONFIG"] = str(office.folder / "rewrap.toml")
        self._go_to("certificates")

    def _go_to(self, name: str, config: str = "") -> None:
        folder = self.office.folder / name
        folder.mkdir()
        if config:
            (folder / "rewrap.toml").write_text(self.office.here(config))
        self.office.shell.folder = folder

    def _bring_master_keys(self) -> None:
        tables = [content for info, content in fences("docs/keys.md") if "[keys.local" in content]
        self._go_to("keys", f'[store]\nurl = "file:///srv/blobs"\n{tables[0]}')
        here = self.office.shell.folder
        system = b"\1\0\0\0" + os.urandom(40)
        (here / "secret.hex").write_text(system.hex())
        (here / "pw").write_text("correct hörse")
        sid = "S-1-5-21-1-2-3-1001"
        prekeys = {
            "S-1-5-18": system[4:24],
            sid: credentials.prekeys_of_password("correct hörse", sid)[0],
        }
        for name, prekey in prekeys.items():
            account = Account()
            file = make_master_key_file(account.guid, account.master_key, prekey, rounds=20)
            (here / name).mkdir()
            (here / name / account.guid).write_bytes(file)

    def _list_keys_of_every_cloud(self) -> None:
        self._go_to("permissions", EVERY_CLOUD)

    def _obey_for_a_second(self) -> None:
        """Write the end of the table that `control-key` printed, and want one person again."""
        file = self.office.folder / "rewrap.toml"
        one_person = re.sub(r"\[approvals\].*?(?=# created)", "", file.read_text(), flags=re.DOTALL)
        file.write_text(f"{one_person}\nmax_age_s = 1\n")
        self.office.restart("scheduler", "worker-1")

    def _damage(self) -> None:
        self._damaged = self.office.sidecar(self.office.blobs[-2])
        self._whole = self._damaged.read_bytes()
        self._damaged.write_bytes(b"{")

    def _mend(self) -> None:
        self._damaged.write_bytes(self._whole)

    def _move(self) -> None:
        store = self.office.place("/srv/blobs")
        (store / "archive").mkdir()
        for path in store.glob(f"{TRIAL}.*"):
            path.rename(store / "archive" / path.name.replace(TRIAL, "invoice-7"))

    def _lose_postgres(self) -> None:
        self.office.stop("rewrap worker")
        self.office.lose_postgres()
        (up,) = [line for line in typed("README.md") if line.text.startswith("rewrap up")]
        self.office.play(up)


TRIAL = "rewrap-trial"
"""The blob that the README's example writes."""

# What the pages after the README tell of.
FURNITURE = """
[alerts.webhooks.ops]
url_file = "hook.url"

[retire]
drain_s = 0
soak_s = 0

[reencrypt]
sweep = true

[keys.vault."transit/next-kek"]
address = "http://127.0.0.1:8200"
token_env = "BAO_TOKEN"
"""

EVERY_CLOUD = """
[store]
url = "s3://bucket/prefix"
region = "eu-west-1"
[keys]
primary = "hcvault://transit/blob-kek"
[keys.vault."transit/blob-kek"]
address = "http://127.0.0.1:8200"
token_env = "BAO_TOKEN"
[keys.aws."arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"]
[keys.gcp."projects/my-project/locations/europe-west1/keyRings/blobs/cryptoKeys/blob-kek"]
[keys.azure."my-vault.vault.azure.net/keys/blob-kek"]
"""


@pytest.fixture(scope="module")
def play(server_directory: Path) -> Iterator[Play]:
    """What README says, done from its first line to its last."""
    office = Office(server_directory / "office")
    with receiver() as hook:
        play = Play(office, hook)
        try:
            office.make()
            play.play("README.md")
            office.make("new/")
            yield play
        finally:
            office.close()


@pytest.mark.timeout(900)  # on a machine that others use
def test_the_readme_leads_to_a_migrated_and_rotated_folder_that_the_library_reads(
    play: Play,
) -> None:
    office = play.office
    assert office.wrong() == []
    legacy = office.blobs[-1]
    (example,) = [content for info, content in fences("README.md") if info == "python"]
    example += f"print(blobs.get({legacy!r}).hex())\n"
    (office.folder / "example.py").write_text(example)
    ran = office.type(f"{sys.executable} example.py")
    assert (ran.code, ran.out.strip()) == (0, office.original(legacy).hex()), ran
    assert office.sidecar(TRIAL).exists()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", ORDER[1:])
def test_a_page_is_typed_from_its_first_line_to_its_last(play: Play, page: str) -> None:
    play.play(page)
    play.office.settle()
    assert play.office.wrong() == []


def test_what_another_test_executes_it_names() -> None:
    for page, test in ELSEWHERE.items():
        assert Path(page).name in (ROOT / test).read_text(encoding="utf-8")


def test_every_exit_code_that_is_meant_not_to_be_0_is_one_of_a_line() -> None:
    found = {(line.page, meant(line)) for page in PLAYED for line in typed(page)}
    assert {(page, code) for (page, _), (code, _) in NOT_ZERO.items()} <= found
