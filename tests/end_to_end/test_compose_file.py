"""docker-compose.yml is valid by the Compose specification, and no service has rights it needs not.

The schema is the specification's own (Apache-2.0), as the PyPI package check-jsonschema 0.39.0
ships it.
"""

import json
import re
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "tests/helpers/compose_spec.schema.json").read_text())
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]

every_service = pytest.mark.parametrize("name", SERVICES)


def problems(compose):
    return [error.message for error in Draft202012Validator(SCHEMA).iter_errors(compose)]


def test_it_is_valid_by_the_specification():
    assert problems(COMPOSE) == []


def test_the_specification_would_say_so_if_it_were_not():
    assert problems({"services": {"a": {"imgae": "x"}}})


def test_it_has_no_version_key():
    assert "version" not in COMPOSE


def test_these_services_start_without_a_profile_and_they_are_enough():
    default = {name for name, service in SERVICES.items() if "profiles" not in service}
    assert default == {"migrate", "collector", "dashboard"}


def test_postgres_and_the_monitoring_come_with_their_profiles():
    assert SERVICES["alertmanager"]["profiles"] == ["monitoring"]
    assert SERVICES["postgres"]["profiles"] == ["postgres"]
    assert SERVICES["prometheus"]["profiles"] == ["monitoring"]


@every_service
def test_a_service_runs_without_root_without_rights_and_writes_only_to_volumes(name):
    service = SERVICES[name]
    assert int(service["user"].split(":")[0]) > 0
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged")


@every_service
def test_an_image_is_pinned_to_a_version(name):
    tag = SERVICES[name]["image"].partition(":")[2]
    assert re.match(r"v?\d+\.\d+", tag), tag


def test_the_base_image_is_pinned_to_a_version_and_the_last_stage_is_no_root():
    dockerfile = (ROOT / "deploy/Dockerfile").read_text()
    bases = re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)
    assert len(bases) == 2
    assert all(re.search(r":3\.11\.\d+-slim-\w+$", base) for base in bases)
    assert re.findall(r"^USER (\d+)", dockerfile, re.MULTILINE) == ["65534"]


@every_service
def test_ports_are_open_on_this_machine_only(name):
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


@every_service
def test_what_keeps_running_says_whether_it_is_well(name):
    if name != "migrate":
        assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"


def test_each_service_waits_for_what_it_needs():
    waits = {
        (name, on): wait["condition"]
        for name, service in SERVICES.items()
        for on, wait in service.get("depends_on", {}).items()
    }
    assert waits == {
        ("migrate", "postgres"): "service_healthy",
        ("collector", "migrate"): "service_completed_successfully",
        ("dashboard", "collector"): "service_healthy",
        ("prometheus", "collector"): "service_healthy",
    }
    assert SERVICES["migrate"]["depends_on"]["postgres"]["required"] is False


def test_every_named_volume_secret_and_network_is_declared():
    for name, service in SERVICES.items():
        volumes = {mount.split(":")[0] for mount in service.get("volumes", [])}
        named = {volume for volume in volumes if not volume.startswith(".")}
        assert named <= set(COMPOSE["volumes"]), name
        assert set(service.get("secrets", [])) <= set(COMPOSE["secrets"]), name
        assert set(service.get("networks", [])) <= set(COMPOSE["networks"]), name


def test_every_file_it_brings_along_exists():
    brought = [
        mount.split(":")[0]
        for service in SERVICES.values()
        for mount in service.get("volumes", [])
        if mount.startswith(".")
    ]
    default = re.fullmatch(r"\$\{\w+:-(.+)\}", COMPOSE["secrets"]["database_url"]["file"])[1]
    for path in (*brought, default, SERVICES["collector"]["build"]["dockerfile"]):
        assert (ROOT / path).exists(), path


def test_no_secret_stands_in_it():
    for service in SERVICES.values():
        for variable, value in service.get("environment", {}).items():
            if re.search("PASSWORD|TOKEN|DATABASE_URL", variable):
                assert variable.endswith("_FILE"), variable
                assert value.startswith("/run/"), value
    assert "@" not in (ROOT / "deploy/database_url.sqlite").read_text()


def test_the_example_of_env_names_only_what_the_file_reads():
    text = (ROOT / "docker-compose.yml").read_text()
    named = set(re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    read = set(re.findall(r"\$\{([A-Z_]+)", text)) | {"COMPOSE_PROFILES"}
    assert named <= read
    assert read - named == {"POSTGRES_PASSWORD_FILE"}
