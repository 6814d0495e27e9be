import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from keywrap.config import KeywrapConfig
from workers.metrics_table import Metrics

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
SECRETS = {
    "POSTGRES_PASSWORD",
    "BAO_DEV_ROOT_TOKEN_ID",
    "BAO_TOKEN",
    "WORKER_TOKEN",
    "BLOB_KEY",
    "REWRAP_FLOWER_BASIC_AUTH",
}
VARIABLE = re.compile(r"\$\{(\w+)([^}]*)\}")


SCHEMA = json.loads((ROOT / "tests/schemas/compose-spec.json").read_text())
"""Of the Compose specification, as the package docker-compose 1.29.2 brings it (Apache-2.0).

The top-level `name` came later.
"""


def _faults(document: dict[str, Any]) -> list[str]:
    schema = SCHEMA | {"properties": SCHEMA["properties"] | {"name": {"type": "string"}}}
    found = jsonschema.Draft201909Validator(schema).iter_errors(document)
    return [error.message for error in found]


def test_the_file_keeps_to_the_schema_of_compose() -> None:
    assert _faults(COMPOSE) == []
    worker = SERVICES["worker"] | {"replica": 2}
    assert _faults(COMPOSE | {"services": SERVICES | {"worker": worker}})


def test_there_are_two_workers_and_two_schedulers() -> None:
    replicas = {name: one["deploy"]["replicas"] for name, one in OURS.items() if "deploy" in one}
    assert replicas == {"scheduler": 2, "worker": 2}


def test_each_of_our_services_is_one_rewrap_command() -> None:
    commands = {name: service.get("command") for name, service in OURS.items()}
    assert commands == {
        "scheduler": ["scheduler"],
        "worker": ["worker"],
        "flower": ["flower"],
        "desk": None,
    }
    assert OURS["desk"]["profiles"] == ["desk"]


NAMED_WHERE_NEEDED = {"REWRAP_TOML", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
"""Only with the profile s3: unset, nothing starts that would need them."""


def test_every_secret_comes_from_the_environment_and_is_missed_when_unset() -> None:
    for service in SERVICES.values():
        for name, value in service["environment"].items() if "environment" in service else ():
            if name in SECRETS:
                assert VARIABLE.fullmatch(value)
    used = VARIABLE.findall((ROOT / "docker-compose.yml").read_text())
    assert used
    assert all(rest.startswith(":?") for name, rest in used if name not in NAMED_WHERE_NEEDED)
    assert all(rest.startswith(":-") for name, rest in used if name in NAMED_WHERE_NEEDED)


def test_the_example_environment_names_every_variable_and_holds_no_value() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    named = {line for line in lines if line and not line.startswith("#")}
    used = VARIABLE.findall((ROOT / "docker-compose.yml").read_text())
    assert named == {f"{name}=" for name, _rest in used}


@pytest.mark.parametrize("name", ["scheduler", "flower"])
def test_who_opens_no_wrap_gets_neither_keys_nor_blobs(name: str) -> None:
    service = OURS[name]
    assert not {"BLOB_KEY", "BAO_TOKEN"} & service["environment"].keys()
    assert not any(volume.startswith("blobs:") for volume in service["volumes"])


def test_every_image_has_a_version_and_one_image_has_one_version() -> None:
    images = {service["image"] for service in SERVICES.values()}
    assert all(re.fullmatch(r"[a-z/]+:v?\d+\.\d+(\.\d+)?", image) for image in images)
    assert len({image.partition(":")[0] for image in images}) == len(images)


@pytest.mark.parametrize("name", OURS)
def test_our_containers_can_neither_write_their_image_nor_gain_rights(name: str) -> None:
    service = OURS[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_only_flower_and_what_a_profile_adds_are_published_and_only_to_this_machine() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {
        "flower": ["127.0.0.1:5555:5555"],
        "s3": ["127.0.0.1:8333:8333"],
        "grafana": ["127.0.0.1:3000:3000"],
    }
    assert SERVICES["s3"]["profiles"] == ["s3"]
    assert SERVICES["grafana"]["profiles"] == SERVICES["prometheus"]["profiles"] == ["watch"]


@pytest.mark.parametrize("name", ["grafana", "prometheus"])
def test_who_watches_can_neither_write_its_image_nor_sign_in(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert not SECRETS & service.get("environment", {}).keys()


def test_prometheus_asks_our_services_where_they_listen() -> None:
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    metrics = Metrics()
    ports = {"scheduler": metrics.port, "worker": metrics.of_workers, "flower": 5555}
    asked = [job["dns_sd_configs"][0] for job in config["scrape_configs"]]
    assert {found["names"][0]: found["port"] for found in asked} == ports
    assert ports.keys() <= OURS.keys()
    for name in ("scheduler", "worker"):
        assert OURS[name]["environment"]["REWRAP_METRICS_ADDRESS"] == "0.0.0.0"  # noqa: S104


def test_whoever_is_waited_for_can_be() -> None:
    for service in SERVICES.values():
        for name, wait in service.get("depends_on", {}).items():
            healthy = wait["condition"] == "service_healthy"
            assert healthy == ("healthcheck" in SERVICES[name])


def test_every_named_volume_is_declared_and_every_mounted_file_exists() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (ROOT / source).is_file()
            else:
                assert source in COMPOSE["volumes"]


@pytest.mark.parametrize("name", ["rewrap.toml", "rewrap-s3.toml"])
def test_the_example_configuration_names_a_listed_primary_key_and_given_variables(
    name: str,
) -> None:
    config = tomllib.loads((ROOT / "deploy" / name).read_text())
    KeywrapConfig.from_table({table: config[table] for table in ("store", "keys")})
    worker = OURS["worker"]["environment"]
    path = config["keys"]["primary"].removeprefix("hcvault://")
    assert config["keys"]["vault"][path]["token_env"] in worker
    assert config["keys"]["env"].keys() <= worker.keys()


def test_the_image_holds_every_room() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    for room in ("keywrap", "ledger", "tasks", "workers", "scheduler", "embedded", "alembic"):
        assert f"COPY {room} {room}\n" in dockerfile
        assert f"!{room}\n" in (ROOT / ".dockerignore").read_text()
