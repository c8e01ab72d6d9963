"""The files of deploy/, by the tools that read them where those can run here, and by rules of our own where they can't.

No image is built and no container started: that takes a Docker engine. deploy/README.md says what nobody has tried.
"""

import json
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Callable, Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import pytest

from subak.settings import Settings, load
from subak.testing import PATIENCE_S
from tests.integration.clients import program, run
from tests.integration.nginx import SNIPPET
from tests.integration.plain_yaml import parse
from tests.integration.prometheus import promtool

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"
DOCKERFILE: Final = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
UNIT: Final = DEPLOY / "systemd" / "subak.service"
OURS: Final = ("SUBAK_", "ENABLE_SSE_STREAMING", "RAG_BACKEND_URL", "GRAFANA_LOKI_URL")
DRAINING_S: Final = Settings().stream.drain_s


def settings_of(environment: Mapping[str, str]) -> Settings:
    """Give what the gateway makes of an environment; it refuses names that are no settings."""
    return load({name: text for name, text in environment.items() if name.startswith(OURS)}, None, {}).settings


# --- Dockerfile -------------------------------------------------------------------------------------


def instructions(text: str) -> list[tuple[str, str]]:
    """Give the instructions of a Dockerfile, each on one line."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def values(text: str, wanted: str) -> list[str]:
    return [rest for name, rest in instructions(text) if name == wanted]


def image_faults(image: str) -> list[str]:
    """Say what is wrong with an image's name: it must have a tag that names a version."""
    _, _, tag = image.rpartition("/")[2].partition(":")
    return [] if re.match(r"v?\d+\.\d+", tag) else [f"{image} names no version"]


def dockerfile_faults(text: str) -> list[str]:
    """Say all that is wrong with a Dockerfile, by our own rules."""
    stages, users = values(text, "FROM"), values(text, "USER")
    installs = [part for line in values(text, "RUN") for part in line.split("&&") if " install " in part and "pip" in part]
    faults = [fault for stage in stages for fault in image_faults(stage.split()[0])]
    faults += [f"no hashes: {part}" for part in installs if not {"--require-hashes", "--no-index"} & {*part.split()}]
    faults += [f"the network decides: {line}" for line in values(text, "RUN") if re.search(r"curl|wget|apt-get", line)]
    faults += [f"{name} runs a shell" for name in ("ENTRYPOINT", "CMD") for rest in values(text, name) if rest[0] != "["]
    rules = {
        "one stage only": len(stages) > 1,
        "it runs as root": bool(users) and users[-1].split(":")[0].isdecimal() and int(users[-1].split(":")[0]) > 0,
        "USER comes before the last stage": "USER" in [name for name, _ in instructions(text[text.rindex("FROM ") :])],
        "no HEALTHCHECK": len(values(text, "HEALTHCHECK")) == 1,
        "ADD instead of COPY": not values(text, "ADD"),
    }
    return faults + [fault for fault, holds in rules.items() if not holds]


def test_the_dockerfile_keeps_the_rules() -> None:
    assert dockerfile_faults(DOCKERFILE) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("python:3.11-slim-bookworm AS", "python:latest AS", "python:latest names no version"),
        ("python:3.11-slim-bookworm AS", "python AS", "python names no version"),
        ("--require-hashes -r requirements.lock", "-r requirements.lock", "no hashes"),
        ("USER 10001:10001", "USER 0:0", "it runs as root"),
        ("USER 10001:10001", "", "it runs as root"),
        ("HEALTHCHECK", "LABEL", "no HEALTHCHECK"),
        ("COPY src ./src", "ADD src ./src", "ADD instead of COPY"),
        ('CMD ["serve"]', "CMD serve", "CMD runs a shell"),
        ("WORKDIR /build", "RUN curl https://example.org", "the network decides"),
    ],
)
def test_each_rule_of_the_dockerfile_finds_what_it_is_for(old: str, new: str, fault: str) -> None:
    assert old in DOCKERFILE
    assert fault in " ".join(dockerfile_faults(DOCKERFILE.replace(old, new)))


def test_what_the_image_copies_is_in_the_tree_and_not_ignored() -> None:
    ignored, *kept = (
        line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if not line.startswith("#")
    )
    copied = [name for line in values(DOCKERFILE, "COPY") if "--from" not in line for name in line.split()[:-1]]
    assert ignored == "*"
    assert {f"!{name}" for name in copied} == {line for line in kept if line.startswith("!")}
    assert [name for name in copied if not (ROOT / name).exists()] == []


def image_environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for line in values(DOCKERFILE, "ENV") for pair in shlex.split(line))


def test_the_image_listens_for_other_containers_and_keeps_its_state_where_a_volume_is() -> None:
    settings = settings_of(image_environment())
    assert settings.server.host == "0.0.0.0"  # noqa: S104 - it is alone in its container
    assert [str(settings.state_dir)] == values(DOCKERFILE, "VOLUME")
    assert [str(settings.server.port)] == values(DOCKERFILE, "EXPOSE")
    assert f":{settings.server.port}/livez" in values(DOCKERFILE, "HEALTHCHECK")[0]


# --- compose ----------------------------------------------------------------------------------------


class Strict(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A part of the Compose Specification, as far as our file uses it."""


class Build(Strict):
    context: str
    dockerfile: str


class Address(Strict):
    ipv4_address: str


class Condition(Strict):
    condition: Literal["service_healthy", "service_started"]


class Ulimits(Strict):
    nofile: int


class Service(Strict):
    image: str
    build: Build | None = None
    init: bool = False
    profiles: list[str] = []
    command: list[str] = []
    environment: dict[str, str] = {}
    extra_hosts: list[str] = []
    depends_on: dict[str, Condition] = {}
    ports: list[str] = []
    networks: list[str] | dict[str, Address]
    volumes: list[str] = []
    read_only: bool = False
    tmpfs: list[str] = []
    cap_drop: list[str]
    cap_add: list[str] = []
    security_opt: list[str]
    ulimits: Ulimits | None = None
    stop_grace_period: str = "10s"
    restart: Literal["unless-stopped"]


class Subnet(Strict):
    subnet: str


class Ipam(Strict):
    config: list[Subnet]


class Network(Strict):
    ipam: Ipam


class Compose(Strict):
    name: str
    services: dict[str, Service]
    networks: dict[str, Network]
    volumes: dict[str, None]


def compose_from(text: str) -> Compose:
    return msgspec.convert(parse(text), Compose)


COMPOSE_TEXT: Final = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
COMPOSE: Final = compose_from(COMPOSE_TEXT)


def mounts(service: Service) -> dict[str, str]:
    """Give source by place in the container."""
    return {place: source for source, place in (volume.split(":")[:2] for volume in service.volumes)}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("read_only: true", "readonly: true"),
        ("condition: service_healthy", "condition: healthy"),
        ("nofile: 65536", "nofile: many"),
        ('"true"', "true"),
        ("    image: subak:0.1.0\n", ""),
        ("  nginx:\n", "  gateway:\n"),
    ],
)
def test_a_mistake_in_the_compose_file_is_seen(old: str, new: str) -> None:
    assert old in COMPOSE_TEXT
    with pytest.raises((msgspec.ValidationError, ValueError)):
        compose_from(COMPOSE_TEXT.replace(old, new, 1))


def test_compose_starts_gateway_and_nginx_and_the_rest_on_demand() -> None:
    by_profile = {name: service.profiles for name, service in COMPOSE.services.items()}
    assert by_profile == {
        "gateway": [],
        "nginx": [],
        "prometheus": ["observe"],
        "grafana": ["observe"],
        "loki": ["observe"],
    }


@pytest.mark.parametrize("service", COMPOSE.services.values(), ids=list(COMPOSE.services))
def test_a_service_has_a_version_no_rights_it_does_not_need_and_nothing_that_is_missing(service: Service) -> None:
    assert image_faults(service.image) == []
    assert service.cap_drop == ["ALL"]
    assert service.security_opt == ["no-new-privileges:true"]
    assert set(service.networks) <= set(COMPOSE.networks)
    assert set(service.depends_on) <= set(COMPOSE.services)
    assert [port for port in service.ports if not port.startswith("127.0.0.1:")] == []
    for source in mounts(service).values():
        assert (DEPLOY / source).exists() if source.startswith("./") else source in COMPOSE.volumes


def test_the_gateway_of_compose_is_the_image_with_a_root_that_cannot_be_written() -> None:
    gateway = COMPOSE.services["gateway"]
    assert gateway.build is not None
    assert (DEPLOY / gateway.build.context / gateway.build.dockerfile).samefile(DEPLOY / "Dockerfile")
    assert gateway.read_only
    assert gateway.init
    assert mounts(gateway) == {values(DOCKERFILE, "VOLUME")[0]: "state"}
    assert gateway.ports == []
    assert float(gateway.stop_grace_period.removesuffix("s")) > DRAINING_S


def compose_settings(given: Mapping[str, str]) -> Settings:
    """Give the gateway's settings, with variables of whoever calls compose put in."""

    def put_in(text: str) -> str:
        return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: given.get(found[1], found[2]), text)

    own = {name: put_in(text) for name, text in COMPOSE.services["gateway"].environment.items()}
    return settings_of(image_environment() | own)


def test_the_gateway_of_compose_is_off_until_it_is_switched_on_and_trusts_nginx_alone() -> None:
    settings = compose_settings({})
    addresses = COMPOSE.services["nginx"].networks
    assert isinstance(addresses, dict)
    address = addresses["inner"].ipv4_address
    assert not settings.features.sse_streaming
    assert settings.http.trusted_proxies == (address,)
    assert ip_address(address) in ip_network(COMPOSE.networks["inner"].ipam.config[0].subnet)
    assert settings.admin.metrics_public
    asked = compose_settings({"ENABLE_SSE_STREAMING": "true", "GRAFANA_LOKI_URL": "http://loki:3100"})
    assert asked.features.sse_streaming
    assert asked.loki.url == "http://loki:3100"


def test_nginx_of_compose_takes_the_snippet_with_the_gateways_address(tmp_path: Path) -> None:
    """Its own command line is run, with folders of ours, up to nginx."""
    gateway = COMPOSE.services["gateway"].networks
    assert isinstance(gateway, dict)
    script, _, last = COMPOSE.services["nginx"].command[2].partition(" && ")
    assert last == "exec nginx -g 'daemon off;'"
    made = tmp_path / "default.conf"
    for old, new in (("/snippets/subak.conf", str(SNIPPET)), ("/etc/nginx/conf.d/default.conf", str(made))):
        assert old in script
        script = script.replace(old, new)
    sed, _, _ = script.partition(" > ")
    done = shutil.which("sed")
    assert done is not None
    expressions = [word for word in shlex.split(sed)[1:-1] if word != "-e"]
    text = SNIPPET.read_text(encoding="utf-8")
    for expression in expressions:
        _, old, new, _ = expression.split("#")
        assert text.count(old) == 1
        text = text.replace(old, new)
    assert f"server {gateway['inner'].ipv4_address}:{Settings().server.port};" in text
    assert "access_log /dev/stdout subak;" in text
