"""The files of deploy/, by the tools that read them where those can run here, and by rules of our own where they can't.

No image is built and no container started: that takes a Docker engine. deploy/README.md says what nobody has tried.
"""

import asyncio
import json
import re
import shlex
import socket
import sys
import tomllib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import pytest

from subak.settings import Settings, load
from subak.testing import ScriptedUpstream
from tests.integration.clients import Exited, curl, program, run
from tests.integration.gateway import ONE_LOOP, STARTING_S, ask, eventually, question_url, running, scripted
from tests.integration.nginx import SNIPPET, documented, nginx
from tests.integration.plain_yaml import parse
from tests.integration.prometheus import promtool
from tests.integration.test_behind_nginx import Lockstep, assert_words_come_one_by_one
from tests.integration.upstream.certificates import Certificate, make_certificate
from tests.settings import child_environment

pytestmark = pytest.mark.real

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"
DOCKERFILE: Final = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
UNIT: Final = DEPLOY / "systemd" / "subak.service"
OURS: Final = ("SUBAK_", "ENABLE_SSE_STREAMING", "RAG_BACKEND_URL", "GRAFANA_LOKI_URL")
DRAINING_S: Final = Settings().stream.drain_s


def settings_of(environment: Mapping[str, str]) -> Settings:
    """Give what the gateway makes of an environment; it refuses names that are no settings."""
    return load({name: text for name, text in environment.items() if name.startswith(OURS)}, None, {}).settings


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
    installs = [
        part for line in values(text, "RUN") for part in line.split("&&") if " install " in part and "pip" in part
    ]
    faults = [fault for stage in stages for fault in image_faults(stage.split()[0])]
    faults += [f"no hashes: {part}" for part in installs if not {"--require-hashes", "--no-index"} & {*part.split()}]
    faults += [f"the network decides: {line}" for line in values(text, "RUN") if re.search(r"curl|wget|apt-get", line)]
    faults += [
        f"{name} runs a shell" for name in ("ENTRYPOINT", "CMD") for rest in values(text, name) if rest[0] != "["
    ]
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


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    """A part of the Compose Specification, as far as our file uses it."""


class Build(Strict, kw_only=True):
    context: str
    dockerfile: str


class Address(Strict, kw_only=True):
    ipv4_address: str


class Condition(Strict, kw_only=True):
    condition: Literal["service_healthy", "service_started"]


class Ulimits(Strict, kw_only=True):
    nofile: int


class Service(Strict, kw_only=True):
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


class Subnet(Strict, kw_only=True):
    subnet: str


class Ipam(Strict, kw_only=True):
    config: list[Subnet]


class Network(Strict, kw_only=True):
    ipam: Ipam


class Compose(Strict, kw_only=True):
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


@ONE_LOOP
async def test_nginx_of_compose_takes_the_snippet_with_the_gateways_address(tmp_path: Path) -> None:
    """Its own command line is run, with folders of ours, up to nginx."""
    gateway = COMPOSE.services["gateway"].networks
    assert isinstance(gateway, dict)
    script, _, last = COMPOSE.services["nginx"].command[2].partition(" && ")
    assert last == "exec nginx -g 'daemon off;'"
    made = tmp_path / "default.conf"
    for old, new in (("/snippets/subak.conf", str(SNIPPET)), ("/etc/nginx/conf.d/default.conf", str(made))):
        assert old in script
        script = script.replace(old, new)
    assert (await run("sh", "-c", script)).code == 0
    text = made.read_text(encoding="utf-8")
    assert f"server {gateway['inner'].ipv4_address}:{Settings().server.port};" in text
    assert "access_log /dev/stdout subak;" in text
    checked = text.replace("/dev/stdout", "/var/log/nginx/access.log").replace("listen 80;", "listen 127.0.0.1:1;")
    assert (await nginx_verdict(checked, tmp_path)).code == 0


def document(path: str) -> Any:  # noqa: ANN401 - a YAML document of a foreign program
    return parse((DEPLOY / path).read_text(encoding="utf-8"))


@ONE_LOOP
async def test_prometheus_of_compose_takes_its_configuration_and_finds_the_gateway() -> None:
    code, said = await promtool("check", "config", "prometheus.yml")
    assert code == 0, said
    (scraped,) = document("prometheus/prometheus.yml")["scrape_configs"]
    assert scraped["static_configs"][0]["targets"] == [f"gateway:{Settings().admin.port}"]
    assert re.search(r'job=~"\.\*subak', (DEPLOY / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))
    assert "subak" in scraped["job_name"]
    assert mounts(COMPOSE.services["prometheus"])["/etc/prometheus"] == "./prometheus"
    assert "--config.file=/etc/prometheus/prometheus.yml" in COMPOSE.services["prometheus"].command


def test_loki_of_compose_deletes_log_lines_when_the_audit_trail_deletes_records() -> None:
    loki, service = document("loki/loki.yml"), COMPOSE.services["loki"]
    assert loki["limits_config"]["retention_period"] == f"{24 * Settings().audit.retention_days}h"
    assert Settings().audit.retention_days == 90
    assert loki["compactor"]["retention_enabled"] is True
    assert loki["compactor"]["delete_request_store"] == loki["schema_config"]["configs"][0]["object_store"]
    assert loki["common"]["path_prefix"] in mounts(service)
    assert mounts(service)["/etc/loki"] == "./loki"
    assert service.command == ["-config.file=/etc/loki/loki.yml"]


def test_grafana_of_compose_has_both_sources_and_the_dashboard() -> None:
    sources = document("grafana/provisioning/datasources/subak.yml")["datasources"]
    assert {source["type"]: source["url"] for source in sources} == {
        "prometheus": "http://prometheus:9090",
        "loki": f"http://loki:{document('loki/loki.yml')['server']['http_listen_port']}",
    }
    (provider,) = document("grafana/provisioning/dashboards/subak.yml")["providers"]
    placed = mounts(COMPOSE.services["grafana"])
    assert placed["/etc/grafana/provisioning"] == "./grafana/provisioning"
    assert placed[f"{provider['options']['path']}/subak.json"] == "./grafana/dashboard.json"


def unit_in(folder: Path, *changes: tuple[str, str]) -> Path:
    """Copy the unit, with a program that is there in place of the installed one, and with `changes`."""
    text = UNIT.read_text(encoding="utf-8")
    for old, new in (("/opt/subak/bin/subak", sys.executable), *changes):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    copy = folder / UNIT.name
    copy.write_text(text, encoding="utf-8")
    return copy


@ONE_LOOP
async def test_systemd_has_nothing_to_say_against_the_unit(tmp_path: Path) -> None:
    verdict = await run(program("systemd-analyze"), "verify", "--man=no", unit_in(tmp_path))
    assert (verdict.code, verdict.err) == (0, "")


@ONE_LOOP
async def test_systemd_would_say_what_is_wrong(tmp_path: Path) -> None:
    unit = unit_in(tmp_path, ("ProtectSystem=strict", "ProtectSytem=strict"))
    assert "ProtectSytem" in (await run(program("systemd-analyze"), "verify", "--man=no", unit)).err


@ONE_LOOP
async def test_the_unit_is_hardened(tmp_path: Path) -> None:
    """`systemd-analyze security` gives 0 to what may do nothing and 10 to what may do all; we allow ourselves 2."""
    command = (program("systemd-analyze"), "security", "--offline=true", "--no-pager", "--threshold=20")
    assert (await run(*command, unit_in(tmp_path))).code == 0
    assert (
        await run(*command, unit_in(tmp_path, ("CapabilityBoundingSet=\n", ""), ("PrivateUsers=yes\n", "")))
    ).code != 0


def test_the_unit_waits_for_ready_and_for_the_drain_and_keeps_its_state() -> None:
    lines = [
        line.partition("=") for line in UNIT.read_text(encoding="utf-8").splitlines() if line[:1] not in ("#", "[", "")
    ]
    said = {name: text for name, _, text in lines}
    assert said["Type"] == "notify"
    assert float(said["TimeoutStopSec"]) > DRAINING_S
    state = settings_of(dict([said["Environment"].split("=", 1)])).state_dir
    assert state == Path("/var/lib") / said["StateDirectory"]


async def nginx_verdict(http_block: str, folder: Path) -> Exited:
    """Give what `nginx -t` says of a configuration that has little more than this."""
    config = folder / "nginx.conf"
    log = f"{folder}/error.log"
    block = http_block.replace("/var/log/nginx/", f"{folder}/")
    config.write_text(f"pid {folder}/pid;\nerror_log {log};\nevents {{}}\nhttp {{\n{block}\n}}\n", encoding="utf-8")
    return await run(program("nginx"), "-t", "-q", "-e", log, "-p", folder, "-c", config)


def with_tls(text: str, certificate: Certificate, address: str) -> str:
    """Take in what the snippet says of TLS; `address` is listened on in place of port 443."""
    for old, new in (
        ("# listen 443 ssl", f"listen {address} ssl"),
        ("# ssl_certificate ", "ssl_certificate "),
        ("# ssl_certificate_key ", "ssl_certificate_key "),
        ("/etc/ssl/certs/subak.pem", str(certificate.cert)),
        ("/etc/ssl/private/subak.key", str(certificate.key)),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


@ONE_LOOP
async def test_nginx_takes_the_snippet_with_and_without_tls(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path, "localhost", "IP:127.0.0.1", days=2)
    plain = SNIPPET.read_text(encoding="utf-8").replace("listen 80;", "listen 127.0.0.1:1;")
    assert await nginx_verdict(plain, tmp_path) == Exited(0, b"", "")
    assert await nginx_verdict(with_tls(plain, certificate, "127.0.0.1:2"), tmp_path) == Exited(0, b"", "")
    assert (await nginx_verdict(plain.replace("proxy_buffering off", "proxy_bufering off"), tmp_path)).code != 0


@ONE_LOOP
async def test_the_snippets_tls_serves_http_2_and_keeps_questions_out_of_its_log(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path, "localhost", "IP:127.0.0.1", days=2)

    def block(port: int, folder: Path) -> str:
        text = documented(gateway.url)(port, folder).replace(f"    listen 127.0.0.1:{port};\n", "")
        return with_tls(text, certificate, f"127.0.0.1:{port}")

    async with scripted() as upstream, running(upstream) as gateway, nginx(block) as server:
        url = server.url.replace("http:", "https:") + question_url("canary-7f3a")
        ended = await curl("--http2", "--cacert", str(certificate.cert), "--write-out", "HTTP/%{http_version}", url)
        assert (ended.code, ended.err) == (0, "")
        assert b'"type":"done"' in ended.out
        assert ended.out.endswith(b"HTTP/2")
        assert '"GET /api/v2/bali-zero/chat-stream HTTP/2.0" 200 ' in server.access_log
        assert "canary-7f3a" not in server.access_log


CADDYFILE: Final = DEPLOY / "caddy" / "Caddyfile"


@ONE_LOOP
async def test_caddy_takes_its_file_and_its_form(tmp_path: Path) -> None:
    environment = f"XDG_DATA_HOME={tmp_path}", f"XDG_CONFIG_HOME={tmp_path}"
    caddy = ("env", *environment, program("caddy"))
    verdict = await run(*caddy, "validate", "--adapter", "caddyfile", "--config", CADDYFILE)
    assert (verdict.code, b"Valid configuration" in verdict.out) == (0, True), verdict.err
    assert (await run(*caddy, "fmt", CADDYFILE)).out == CADDYFILE.read_bytes()


@asynccontextmanager
async def caddy_before(gateway_url: str, folder: Path) -> AsyncIterator[str]:
    """Run Caddy with its file; without TLS, on a port of ours. Give its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    text = CADDYFILE.read_text(encoding="utf-8")
    for old, new in (
        ("\tlog default {", "\tadmin off\n\tlog default {"),
        ("subak.example.org {", f"http://:{port} {{\n\tbind 127.0.0.1"),
        ("127.0.0.1:8080 {", f"{gateway_url.removeprefix('http://')} {{"),
        ("output stdout", f"output file {folder}/access.log"),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    config = folder / "Caddyfile"
    config.write_text(text, encoding="utf-8")
    with (folder / "error.log").open("wb") as said:
        process = await asyncio.create_subprocess_exec(
            *(program("caddy"), "run", "--adapter", "caddyfile", "--config", config),
            stderr=said,
            env=child_environment(XDG_DATA_HOME=str(folder), XDG_CONFIG_HOME=str(folder)),
        )
    try:
        await eventually(lambda: _listens(port), lambda: (folder / "error.log").read_text(encoding="utf-8"), STARTING_S)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        async with asyncio.timeout(STARTING_S):
            await process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@ONE_LOOP
async def test_events_are_not_held_back_by_caddy(tmp_path: Path) -> None:
    lockstep = Lockstep()
    async with (
        ScriptedUpstream(lockstep.script) as upstream,
        running(upstream) as gateway,
        caddy_before(gateway.url, tmp_path) as url,
    ):
        await assert_words_come_one_by_one(url, lockstep)


@ONE_LOOP
async def test_caddy_logs_no_question_no_credential_and_no_stream_and_lends_no_name(tmp_path: Path) -> None:
    trusting = {"SUBAK_HTTP__TRUSTED_PROXIES": "127.0.0.1"}
    secret = "canary-7f3a"
    headers = [("X-User-Id", "admin"), ("Forwarded", "for=203.0.113.9"), ("Last-Event-ID", secret)]
    async with scripted() as upstream, running(upstream, trusting) as gateway:
        async with caddy_before(gateway.url, tmp_path) as url:
            assert (await ask(url, "GET", question_url(secret), headers[:2])).status == 200
            await ask(url, "GET", f"/v1/streams/st_{secret}/events?x={secret}", headers)
        assert "x-user-id" not in upstream.requests[0].headers
    log = (tmp_path / "access.log").read_text(encoding="utf-8")
    logged = [json.loads(line)["request"]["uri"] for line in log.splitlines()]
    assert logged == ["/api/v2/bali-zero/chat-stream", "/v1/streams//events"]
    assert secret not in log + (tmp_path / "error.log").read_text(encoding="utf-8")


@ONE_LOOP
async def test_caddy_tells_no_question_beside_an_error(tmp_path: Path) -> None:
    async with caddy_before("http://127.0.0.1:1", tmp_path) as url:
        assert (await ask(url, "GET", question_url("canary-7f3a"))).status == 502
    told = (tmp_path / "access.log").read_text("utf-8") + (tmp_path / "error.log").read_text("utf-8")
    assert "connection refused" in told
    assert "canary-7f3a" not in told


def test_fly_keeps_the_state_on_a_volume_and_asks_whether_the_gateway_wants_traffic() -> None:
    fly = tomllib.loads((DEPLOY / "fly.toml").read_text(encoding="utf-8"))
    settings = settings_of(image_environment() | fly["env"])
    service = fly["http_service"]
    assert fly["mounts"]["destination"] == str(settings.state_dir)
    assert service["internal_port"] == settings.server.port
    assert [check["path"] for check in service["checks"]] == ["/readyz"]
    assert (service["auto_stop_machines"], service["min_machines_running"]) == ("off", 1)
    assert float(fly["kill_timeout"].removesuffix("s")) > DRAINING_S
    assert settings.auth.required
    assert settings.http.trusted_proxies == ()
