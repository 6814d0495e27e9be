"""What a security review found in the road to AWS KMS, each with a test that was red before."""

import base64
import gzip
import json
import os
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import botocore
import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ConnectionClosedError
from botocore.httpsession import URLLib3Session

from keywrap.datakey import DataKey
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.kms import (
    DeniedError,
    KmsError,
    ProofFailedError,
    RefusedError,
    ThrottledError,
    UnavailableError,
)
from keywrap.providers import calls
from keywrap.providers.aws import AwsKeyProvider
from keywrap.providers.aws_client import AwsAccess, kms_client
from keywrap.providers.pace import Pace
from keywrap.testing.aws_kms import Corruption, StrictKms
from keywrap.testing.aws_kms_hook import attach
from keywrap.testing.aws_kms_keys import KeyState

CONTEXT = {"blob_id": "tenants/7/invoice.pdf"}
SECRET = bytes(range(100, 132))
DATA_KEY = DataKey(SECRET)
FORMS = (SECRET.hex(), base64.b64encode(SECRET).decode(), repr(SECRET)[2:-1])


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "never-sent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.delenv("AWS_PROFILE", raising=False)


@pytest.fixture
def kms() -> StrictKms:
    return StrictKms()


@pytest.fixture
def provider(kms: StrictKms) -> AwsKeyProvider:
    def client() -> Any:
        client = kms_client("eu-west-1", AwsAccess())
        attach(client, kms)
        return client

    provider = AwsKeyProvider(kms.create_key(), client)
    provider.current_version()
    kms.trail.clear()
    return provider


def arn_of(provider: AwsKeyProvider) -> str:
    return provider.key.removeprefix("aws-kms://")


def fail_after(
    requests: int, code: str, kms: StrictKms, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Let a KMS fail for ever once it had so many requests; return what it is asked from now."""
    lock = threading.Lock()
    asked: list[str] = []

    def answer(target: str, body: bytes) -> Any:
        with lock:
            asked.append(target)
            if len(asked) == requests:
                kms.faults.fail_next(code, times=100_000)
        return StrictKms.answer(kms, target, body)

    monkeypatch.setattr(kms, "answer", answer)
    return asked


class TestWhatABatchMadeStaysMade:
    @pytest.fixture(autouse=True)
    def _little_patience(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(calls, "THROTTLED_FOR_S", 0.5)
        monkeypatch.setattr(calls, "MOST_THROTTLED_FOR_S", 0.5)

    def test_a_throttled_batch_gets_through_in_the_end(
        self, kms: StrictKms, provider: AwsKeyProvider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keys = [DataKey.generate() for _ in range(100)]
        wraps: dict[int, WrappedKey] = {}
        batches = 0
        while len(wraps) < len(keys) and batches < 20:
            missing = [place for place in range(len(keys)) if place not in wraps]
            kms.faults.clear()
            fail_after(80, "ThrottlingException", kms, monkeypatch)
            results = provider.wrap_many([(keys[place], CONTEXT) for place in missing])
            assert len(results) == len(missing)
            for place, each in zip(missing, results, strict=True):
                assert isinstance(each, WrappedKey | ThrottledError)
                if isinstance(each, WrappedKey):
                    wraps[place] = each
            batches += 1
        assert 1 < batches < 20
        kms.faults.clear()
        monkeypatch.setattr(kms, "answer", partial(StrictKms.answer, kms))
        items = [(wraps[place], CONTEXT) for place in range(len(keys))]
        assert provider.unwrap_many(items) == keys

    @pytest.mark.parametrize(
        ("code", "kind"),
        [
            ("ThrottlingException", ThrottledError),
            ("AccessDeniedException", DeniedError),
            ("KMSInternalException", UnavailableError),
        ],
    )
    @pytest.mark.parametrize("operation", ["Encrypt", "Decrypt", "ReEncrypt"])
    def test_after_the_first_error_nothing_is_sent_and_the_rest_gets_it_too(
        self,
        kms: StrictKms,
        provider: AwsKeyProvider,
        monkeypatch: pytest.MonkeyPatch,
        operation: str,
        code: str,
        kind: type[KmsError],
    ) -> None:
        wrapped = provider.wrap(DATA_KEY, CONTEXT)
        act: dict[str, Any] = {
            "Encrypt": lambda: provider.wrap_many([(DATA_KEY, CONTEXT)] * 300),
            "Decrypt": lambda: provider.unwrap_many([(wrapped, CONTEXT)] * 300),
            "ReEncrypt": lambda: provider.rewrap_many([(wrapped, CONTEXT)] * 300),
        }
        monkeypatch.setattr(calls, "RETRY_FOR_S", 0.1)
        asked = fail_after(100, code, kms, monkeypatch)
        results = act[operation]()
        kinds = Counter(type(each) for each in results)
        assert set(kinds) == {kind, WrappedKey if operation != "Decrypt" else DataKey}
        assert len(results) == 300
        assert kinds[kind] < 300
        assert len(asked) < 100 + 16 * (20 if kind is ThrottledError else 3)
        last = results[-1]
        assert sum(each is last for each in results) >= kinds[kind] - 16, "not the same error"
        sent = len(asked)
        time.sleep(0.05)
        assert len(asked) == sent

    def test_a_failed_proof_is_raised_even_after_an_item_that_was_throttled(
        self, kms: StrictKms, provider: AwsKeyProvider
    ) -> None:
        del kms
        errors = {0: ThrottledError("slow down"), 1: ProofFailedError("another data key")}

        def do(item: int, _batch: calls.Batch) -> int:
            time.sleep(0.05 * (1 - item))
            raise errors[item]

        with pytest.raises(ProofFailedError):
            provider._each(do, [0, 1])

    def test_a_refusal_ends_no_batch(self, kms: StrictKms, provider: AwsKeyProvider) -> None:
        wrapped = provider.wrap(DATA_KEY, CONTEXT)
        bad = WrappedKey(wrapped.key_version, bytes(len(wrapped.ciphertext)))
        results = provider.unwrap_many([(bad, CONTEXT), (wrapped, CONTEXT)] * 20)
        assert [type(each) for each in results] == [RefusedError, DataKey] * 20
        del kms

    def test_who_waits_for_a_turn_when_the_batch_ends_gives_it_back(self) -> None:
        pace, over = Pace(), threading.Event()
        pace._gap_s, pace._eased_at = 1.0, time.monotonic()
        pace._next_at = pace._eased_at + 30
        began = time.monotonic()
        timer = threading.Timer(0.05, over.set)
        timer.start()
        pace.wait(over)
        timer.join()
        assert time.monotonic() - began < 5
        assert pace._next_at == pytest.approx(began + 30, abs=0.2)


class TestNoFileOrVariableChoosesTheHost:
    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
        urls: list[str] = []

        def send(_self: object, request: Any) -> AWSResponse:
            urls.append(request.url)
            raise ConnectionClosedError(endpoint_url=request.url)

        monkeypatch.setattr(URLLib3Session, "send", send)
        return urls

    @pytest.mark.parametrize(
        ("endpoint", "host"),
        [
            ("", "https://kms.eu-west-1.amazonaws.com/"),
            ("https://kms.internal", "https://kms.internal/"),
        ],
    )
    @pytest.mark.parametrize("where", ["AWS_DATA_PATH", "HOME"])
    def test_data_files_from_elsewhere_are_not_read(
        self,
        asked: list[str],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        where: str,
        endpoint: str,
        host: str,
    ) -> None:
        data = tmp_path if where == "AWS_DATA_PATH" else tmp_path / ".aws" / "models"
        self.plant(data)
        monkeypatch.setenv(where, str(tmp_path))
        # The class works this path out when it is imported.
        monkeypatch.setattr(
            "botocore.loaders.Loader.CUSTOMER_DATA_PATH", str(tmp_path / ".aws" / "models")
        )
        client = kms_client("eu-west-1", AwsAccess(endpoint=endpoint))
        with pytest.raises(ConnectionClosedError):
            client.list_keys()
        assert asked == [host]

    def plant(self, data: Path) -> None:
        built_in = Path(botocore.__file__).parent / "data"
        (data / "kms" / "2014-11-01").mkdir(parents=True)
        names = ["UseDualStack", "UseFIPS", "Region", "Endpoint"]
        rules = {
            "version": "1.0",
            "parameters": {name: {"required": False, "type": "String"} for name in names},
            "rules": [
                {
                    "conditions": [],
                    "endpoint": {"url": "https://kms.evil.example", "properties": {}},
                    "type": "endpoint",
                }
            ],
        }
        for name in ("UseDualStack", "UseFIPS"):
            rules["parameters"][name] = {"required": False, "type": "Boolean"}  # type: ignore[index]
        (data / "kms/2014-11-01/endpoint-rule-set-1.json").write_text(json.dumps(rules))
        plain, packed = built_in / "endpoints.json", built_in / "endpoints.json.gz"
        text = (
            plain.read_text() if plain.exists() else gzip.decompress(packed.read_bytes()).decode()
        )
        (data / "endpoints.json").write_text(text.replace("amazonaws.com", "evil.example"))

    @pytest.mark.parametrize("by", ["variable", "every service", "file"])
    def test_a_role_is_asked_for_at_sts_itself(
        self, asked: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, by: str
    ) -> None:
        config = tmp_path / "config"
        line = "endpoint_url = https://evil.example\n" if by == "file" else ""
        config.write_text(
            f"[profile role]\nrole_arn = arn:aws:iam::111122223333:role/blobs\n"
            f"source_profile = base\nregion = eu-west-1\n{line}"
            f"[profile base]\naws_access_key_id = AKIAEXAMPLE\naws_secret_access_key = x\n{line}"
        )
        monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
        if by != "file":
            name = "AWS_ENDPOINT_URL_STS" if by == "variable" else "AWS_ENDPOINT_URL"
            monkeypatch.setenv(name, "https://evil.example")
        client = kms_client("eu-west-1", AwsAccess(profile="role"))
        with pytest.raises(ConnectionClosedError):
            client.list_keys()
        assert asked
        assert {url.split("/")[2] for url in asked} == {"sts.eu-west-1.amazonaws.com"}


def shown(error: BaseException) -> str:
    """Return an error as a reporter shows it that writes down each frame's local variables."""
    trace = traceback.TracebackException.from_exception(error, capture_locals=True)
    return "".join(trace.format())


class TestNoFrameHoldsADataKey:
    @pytest.fixture(autouse=True)
    def _no_patience(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(calls, "THROTTLED_FOR_S", 0.05)
        monkeypatch.setattr(calls, "RETRY_FOR_S", 0.1)

    @pytest.mark.parametrize(
        "code", ["AccessDeniedException", "ThrottlingException", "KMSInternalException"]
    )
    def test_of_a_request_that_fails(
        self, kms: StrictKms, provider: AwsKeyProvider, code: str
    ) -> None:
        kms.faults.fail_next(code, times=10_000)
        with pytest.raises(KmsError) as failed:
            provider.wrap(DATA_KEY, CONTEXT)
        for error in (failed.value, *provider.wrap_many([(DATA_KEY, CONTEXT)] * 20)):
            assert isinstance(error, KmsError)
            text = shown(error)
            assert "DataKey(hidden)" in text, "it shows no local variables"
            assert not [form for form in FORMS if form in text]

    def test_of_a_key_that_is_disabled(self, kms: StrictKms, provider: AwsKeyProvider) -> None:
        kms.set_state(arn_of(provider), KeyState.DISABLED)
        with pytest.raises(DeniedError) as denied:
            provider.wrap(DATA_KEY, CONTEXT)
        assert not [form for form in FORMS if form in shown(denied.value)]

    @pytest.mark.parametrize("corruption", [Corruption.WRONG_KEY, Corruption.WRONG_MATERIAL])
    def test_of_an_answer_that_is_not_believed(
        self, kms: StrictKms, provider: AwsKeyProvider, corruption: Corruption
    ) -> None:
        wrapped = provider.wrap(DATA_KEY, CONTEXT)
        for operation, act in (
            ("Decrypt", lambda: provider.unwrap(wrapped, CONTEXT)),
            ("Decrypt", lambda: provider.wrap(DATA_KEY, CONTEXT)),
            ("GenerateDataKey", lambda: provider.generate_data_key(CONTEXT)),
        ):
            kms.faults.corrupt_next(corruption, operation=operation)
            with pytest.raises(KmsError) as failed:
                act()
            text = shown(failed.value)
            assert "answer" in text, "it shows no local variables"
            assert "'Plaintext': b" not in text
            assert not [form for form in FORMS if form in text]

    def test_of_a_plaintext_that_is_no_aes_key(
        self, kms: StrictKms, provider: AwsKeyProvider
    ) -> None:
        client = kms_client("eu-west-1", AwsAccess())
        attach(client, kms)
        answer = client.encrypt(
            KeyId=arn_of(provider), Plaintext=SECRET[:31], EncryptionContext=CONTEXT
        )
        version = KeyVersion(provider.key, provider.current_version().version)
        with pytest.raises(RefusedError, match="31 bytes") as refused:
            provider.unwrap(WrappedKey(version, answer["CiphertextBlob"]), CONTEXT)
        assert repr(SECRET[:31])[2:-1] not in shown(refused.value)
