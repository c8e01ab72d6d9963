"""CPU per event, latency and memory of the gateway beside nginx and a textbook relay, in one run on one machine.

`./dev.py bench [options]`. It builds `origin.c` and `load.c` with `cc`, starts origin and targets on free
ports of the loopback, drives them in turn (A B A B …: noise shows as a spread between the rounds), and prints Markdown.
CPU is user + system time of a target's whole process tree from /proc, read at the two edges of the window whose events
`load` counts. It knows nothing of the gateway's inside: `python -m subak serve` and its settings are all it uses.
Linux only; only the standard library.
"""

import argparse
import contextlib
import datetime as dt
import http.client
import importlib.metadata
import json
import math
import os
import platform
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Literal

import gate
from relay_venv import RelayError, relay_command, relay_versions

HERE = Path(__file__).resolve().parent
BUILD = HERE / "build"
GATEWAY_PATH = "/api/v2/bali-zero/chat-stream"
ORIGIN_PATH = "/bali-zero/chat-stream"
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
READY_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 5.0
SETTLE_S = 1.0  # for a target to put away what a warm-up has left
WANTED_FILES = 20_000
OTHERS_SHARE = 0.15  # of a core; more than that in a window, and the machine was not ours
BUSY_SHARE = 0.9  # a generator that uses more of a core than this may be what is measured

SCRAPE_S = 1.0  # between two looks at /metrics, of a gateway with everything on
UNLIMITED = 1_000_000_000  # limits that hold and let everything through: what counting costs

Kind = Literal["paced", "turnover", "flat", "short", "closed", "idle"]
TargetName = Literal["direct", "nginx", "relay", "gateway", "everything"]
TARGETS: tuple[TargetName, ...] = ("direct", "nginx", "relay", "gateway", "everything")
OURS: tuple[TargetName, ...] = ("gateway", "everything")


class BenchError(Exception):
    """The bench can't go on; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of load. `rate`: tokens per second and stream, 0 = flat out; `ramp_s`: time over which streams start."""

    name: str
    kind: Kind
    title: str
    streams: int
    rate: float
    ramp_s: float
    window_s: float
    quick_window_s: float
    tokens: int = 0  # of each stream; 0: as many as last for the whole window

    @property
    def from_s(self) -> float:
        """Start of the window, after all streams are open and another second of warming up."""
        return 1.0 if self.kind == "short" else self.ramp_s + 1.0

    @property
    def to_s(self) -> float:
        """End of the window."""
        return self.from_s + self.window_s

    def arguments(self) -> list[str]:
        """What `load` is told, but for target and start."""
        seconds = self.to_s + 0.5
        # A short scenario starts requests at an even pace until after the window; they are not answered at a pace.
        ramp_s = seconds if self.kind == "short" else self.ramp_s
        streams = math.ceil(self.streams * seconds) if self.kind == "short" else self.streams
        words = {
            "--streams": streams,
            "--rate": self.rate,
            "--count": self.tokens or math.ceil(self.rate * seconds),
            "--ramp": ramp_s,
            "--from": self.from_s,
            "--to": self.to_s,
            "--prompt": int(self.kind == "turnover"),
            "--loop": int(self.kind in {"turnover", "flat", "closed"}),
            "--deadline": seconds + 20,
        }
        return [str(word) for pair in words.items() for word in pair]


SCENARIOS = (
    Scenario("200x50", "paced", "200 streams x 50 tokens/s", 200, 50, ramp_s=2, window_s=20, quick_window_s=4),
    Scenario("2000x5", "paced", "2 000 streams x 5 tokens/s", 2000, 5, ramp_s=4, window_s=20, quick_window_s=4),
    Scenario("flat50", "flat", "50 streams flat out", 50, 0, ramp_s=0.2, window_s=8, quick_window_s=2, tokens=5000),
    Scenario(
        "first200",
        "turnover",
        "200 streams x 50 tokens/s, each of 100 tokens and followed by another",
        200,
        50,
        ramp_s=2,
        window_s=20,
        quick_window_s=4,
        tokens=100,
    ),
    Scenario(
        "short500", "short", "500 requests/s of one token", 500, 0, ramp_s=0, window_s=10, quick_window_s=3, tokens=1
    ),
    Scenario(
        "full50",
        "closed",
        "one-token requests, 50 at a time, as many as it takes",
        50,
        0,
        ramp_s=0.2,
        window_s=10,
        quick_window_s=3,
        tokens=1,
    ),
    Scenario("idle2000", "idle", "2 000 open idle streams", 2000, 0, ramp_s=4, window_s=3, quick_window_s=2, tokens=1),
    *(
        Scenario(
            f"grow{streams}",
            "paced",
            f"growth: {streams} streams, 5 000 events/s in all",
            streams,
            5000 / streams,
            ramp_s=max(1, streams / 1000),
            window_s=10,
            quick_window_s=3,
        )
        for streams in (100, 500, 1000, 2500, 5000)
    ),
)


@dataclass(frozen=True, slots=True)
class Options:
    """The command line, read."""

    scenarios: tuple[Scenario, ...]
    targets: tuple[TargetName, ...]
    rounds: int
    is_pinned: bool
    json_file: Path | None


def read_options(arguments: Sequence[str]) -> Options:
    """The command line. Raises: SystemExit with usage."""
    parser = argparse.ArgumentParser(prog="./dev.py bench", description="Measure the gateway beside nginx.")
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument("--scenario", action="append", choices=names, help="only this one (may be repeated)")
    parser.add_argument("--targets", default=",".join(TARGETS), help=f"comma-separated: {', '.join(TARGETS)}")
    parser.add_argument("--rounds", type=int, help="times that each target is driven (default 3, quick 2)")
    parser.add_argument("--quick", action="store_true", help="short windows: a look, not a figure to publish")
    parser.add_argument("--pin", action="store_true", help="target on core 0, origin and load on core 1")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    given = parser.parse_args(arguments)
    wanted = set(given.targets.split(","))
    if wanted - set(TARGETS):
        parser.error(f"--targets knows {', '.join(TARGETS)}")
    if given.rounds is not None and given.rounds < 1:
        parser.error("--rounds must be at least 1")
    chosen = [scenario for scenario in SCENARIOS if scenario.name in (given.scenario or names)]
    if given.quick:
        chosen = [replace(scenario, window_s=scenario.quick_window_s) for scenario in chosen]
    return Options(
        scenarios=tuple(chosen),
        targets=tuple(name for name in TARGETS if name in wanted),
        rounds=given.rounds or (2 if given.quick else 3),
        is_pinned=given.pin,
        json_file=given.json,
    )


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Latencies in microseconds."""

    p50: float
    p95: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One target driven once. CPU in seconds within the window; `lost` counts streams not whole and faults seen."""

    scenario: str
    target: TargetName
    round: int
    lost: int
    faults: Mapping[str, int]
    window_s: float = 0.0
    events: int = 0
    requests: int = 0
    cpu_s: float = 0.0
    origin_cpu_s: float = 0.0
    load_cpu_s: float = 0.0
    other_cpu_s: float = 0.0  # of all that is not the bench, and interrupts that nobody is charged for
    latency_us: Quantiles | None = None
    response_us: Quantiles | None = None
    first_us: Quantiles | None = None
    rss_kib: float = 0.0  # per stream, of an idle scenario
    pss_kib: float = 0.0

    @property
    def cpu_us_per_event(self) -> float:
        """CPU microseconds per event of the window; nan without events."""
        return self.cpu_s * 1e6 / self.events if self.events else math.nan

    @property
    def cpu_us_per_request(self) -> float:
        """CPU microseconds per answer that ended in the window; nan without one."""
        return self.cpu_s * 1e6 / self.requests if self.requests else math.nan


@contextlib.contextmanager
def running(command: Sequence[str], log: Path, *, reads_output: bool = False) -> Iterator[subprocess.Popen[str]]:
    """A process that is gone, with its children, when the block ends. What it prints goes to `log` or to the caller."""
    with log.open("a") as sink:
        process = subprocess.Popen(command, stdout=subprocess.PIPE if reads_output else sink, stderr=sink, text=True)
    try:
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[str]) -> None:
    """Ends a process and what it has started, by pid: kindly first, then not."""
    children = tree(process.pid)[1:]
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
    for pid, started in children:
        if start_time(pid) == started:
            os.kill(pid, signal.SIGKILL)


def stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on (state, ppid, …); empty when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rpartition(")")[2].split()


def start_time(pid: int) -> str:
    """When a process began, in the kernel's words: tells it from a later one with the same pid."""
    fields = stat_fields(pid)
    return fields[19] if fields else ""


def tree(pid: int) -> list[tuple[int, str]]:
    """A process and its descendants, the process first, each with its start time."""
    everybody = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    parents = {each: stat_fields(each) for each in everybody}
    found = [pid]
    for known in found:  # grows while it is read
        found.extend(child for child, fields in parents.items() if fields and int(fields[1]) == known)
    return [(member, start_time(member)) for member in found]


def cpu_s(pids: Sequence[int]) -> float:
    """User and system time of these processes, with all their threads, in seconds."""
    fields = [stat_fields(pid) for pid in pids]
    return sum(int(each[11]) + int(each[12]) for each in fields if each) * TICK_S


def read_cpu_line() -> list[int]:
    """The first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal, … in ticks."""
    return [int(word) for word in Path("/proc/stat").read_text().partition("\n")[0].split()[1:]]


def machine_cpu_s() -> float:
    """CPU seconds that the whole machine has spent: all but idle, waiting for a disk, and stolen."""
    user, nice, system, _idle, _iowait, irq, softirq = read_cpu_line()[:7]
    return (user + nice + system + irq + softirq) * TICK_S


def memory_kib(pid: int) -> tuple[int, int]:
    """RSS and PSS of a process tree in KiB."""
    sums = {"Rss:": 0, "Pss:": 0}
    for member, _ in tree(pid):
        for line in Path(f"/proc/{member}/smaps_rollup").read_text().splitlines():
            name, *values = line.split()
            if name in sums:
                sums[name] += int(values[0])
    return sums["Rss:"], sums["Pss:"]


def free_port() -> int:
    """A port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_ready(port: int, process: subprocess.Popen[str], log: Path) -> None:
    """Returns when /readyz answers 200. Raises: BenchError with the end of the log."""
    give_up = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < give_up:
        if is_ready(port):
            return
        stay_alive(process, 0.05, log)
    raise BenchError(f"{process.args!r} was not ready after {READY_TIMEOUT_S:.0f} s:\n{tail(log)}")


def is_ready(port: int) -> bool:
    """Whether /readyz answers 200."""
    return get_status(port, "/readyz") == http.HTTPStatus.OK


def get_status(port: int, path: str) -> int:
    """The status of a GET, its body read; 0 without an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        return response.status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def stay_alive(process: subprocess.Popen[str], seconds: float, log: Path) -> None:
    """Returns after that time. Raises: BenchError with the end of the log if the process ends before."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        code = process.wait(max(0.0, seconds))
        raise BenchError(f"{process.args!r} ended with {code}:\n{tail(log)}")


def tail(log: Path) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])


@dataclass(frozen=True, slots=True)
class Target:
    """Something that answers: where, in which dialect, and whose CPU and memory count."""

    name: TargetName
    port: int
    path: str
    dialect: Literal["rag", "envelope"]
    process: subprocess.Popen[str]


@dataclass(frozen=True, slots=True)
class Bench:
    """Where the run keeps its files and what it has started: `origin` answers on `origin_port`."""

    folder: Path
    is_pinned: bool
    origin: subprocess.Popen[str]
    origin_port: int

    @property
    def log(self) -> Path:
        """Where the processes write."""
        return self.folder / "bench.log"

    @contextlib.contextmanager
    def target(self, name: TargetName) -> Iterator[Target]:
        """A target that is ready; one that was started for it ends with the block."""
        if name == "direct":
            yield Target(name, self.origin_port, ORIGIN_PATH, "rag", self.origin)
            return
        port, admin_port = free_port(), free_port()
        command = self.command(name, port, admin_port)
        with contextlib.ExitStack() as stack:
            process = stack.enter_context(running([*pin(0, is_pinned=self.is_pinned), *command], self.log))
            wait_ready(port, process, self.log)
            if name == "everything":
                stack.enter_context(scraping(admin_port))
            yield Target(name, port, GATEWAY_PATH, "envelope" if name in OURS else "rag", process)

    def command(self, name: TargetName, port: int, admin_port: int) -> list[str]:
        """The command that starts a target."""
        match name:
            case "nginx":
                return self.nginx(port)
            case "relay":
                return relay_command(port, self.origin_port)
            case "gateway":
                return self.gateway(port, {"SUBAK_ADMIN__PORT": admin_port, **BARE})
            case "everything":
                return self.gateway(port, {"SUBAK_ADMIN__PORT": admin_port, **EVERYTHING})
            case "direct":
                raise BenchError("origin runs already")

    def nginx(self, port: int) -> list[str]:
        """The command that starts nginx, its configuration written."""
        prefix = self.folder / f"nginx-{port}"
        prefix.mkdir()
        text = (HERE / "nginx.conf.in").read_text()
        words = {"PREFIX": prefix, "PORT": port, "ORIGIN": self.origin_port, "FILES": WANTED_FILES}
        for word, value in words.items():
            text = text.replace(f"@{word}@", str(value))
        config = prefix / "nginx.conf"
        config.write_text(text)
        return [find_nginx(), "-e", str(prefix / "error.log"), "-p", str(prefix), "-c", str(config)]

    def gateway(self, port: int, added: Mapping[str, object]) -> list[str]:
        """The command that starts the gateway. `env` adds to the environment and becomes the gateway: the pid stays."""
        settings = {
            "ENABLE_SSE_STREAMING": "true",
            "RAG_BACKEND_URL": f"http://127.0.0.1:{self.origin_port}",
            "SUBAK_SERVER__PORT": port,
            "SUBAK_STATE_DIR": self.folder / f"subak-{port}",
            "SUBAK_STREAM__HEARTBEAT_S": 30,
            "SUBAK_STREAM__DRAIN_S": 1,
            **added,
        }
        return ["env", *(f"{name}={value}" for name, value in settings.items()), sys.executable, "-m", "subak", "serve"]

    def load(self, target: Target, *arguments: str) -> list[str]:
        """The command that drives a target."""
        where = ["--port", str(target.port), "--path", target.path, "--dialect", target.dialect]
        return [*pin(1, is_pinned=self.is_pinned), str(BUILD / "load"), *where, *arguments]

    def drive(self, scenario: Scenario, target: Target, round_: int) -> Sample:
        """One run of `load` against a target, with the CPU clocks read at the edges of the window."""
        at_ns = time.monotonic_ns() + 200_000_000
        members = [pid for pid, _ in tree(target.process.pid)]
        command = self.load(target, "--at", str(at_ns), *scenario.arguments())
        with running(command, self.log, reads_output=True) as load:
            groups = (members, [self.origin.pid], [load.pid])
            wait_until(at_ns / 1e9 + scenario.from_s, load, self.log)
            before = [*(cpu_s(group) for group in groups), machine_cpu_s()]
            wait_until(at_ns / 1e9 + scenario.to_s, load, self.log)
            after = [*(cpu_s(group) for group in groups), machine_cpu_s()]
            found = json.loads(read_line(load, self.log))
        used = [end - start for start, end in zip(before, after, strict=True)]
        return Sample(
            scenario=scenario.name,
            target=target.name,
            round=round_,
            lost=found["started"] - found["completed"],
            faults=found["faults"],
            window_s=found["window_s"],
            events=found["window_events"],
            requests=found["window_completed"],
            cpu_s=used[0],
            origin_cpu_s=used[1],
            load_cpu_s=used[2],
            other_cpu_s=used[3] - (sum(used[1:3]) if target.name == "direct" else sum(used[:3])),
            latency_us=Quantiles(**found["latency_us"]),
            response_us=Quantiles(**found["response_us"]),
            first_us=Quantiles(**found["first_us"]),
        )

    def hold(self, scenario: Scenario, target: Target, round_: int) -> Sample:
        """Memory per open stream: before and after `load` has opened them all, each when it has settled."""
        with running(self.load(target, "--streams", "50", "--rate", "0", "--count", "5"), self.log) as warm_up:
            warm_up.wait()
        stay_alive(target.process, SETTLE_S, self.log)
        before = memory_kib(target.process.pid)
        arguments = [
            "--streams",
            str(scenario.streams),
            "--ramp",
            str(scenario.ramp_s),
            "--hold",
            str(scenario.window_s + 2),
        ]
        with running(self.load(target, *arguments), self.log, reads_output=True) as load:
            holding = json.loads(read_line(load, self.log))["holding"]
            stay_alive(load, scenario.window_s, self.log)
            after = memory_kib(target.process.pid)
            faults = json.loads(read_line(load, self.log))["faults"]
        rss, pss = ((end - start) / scenario.streams for start, end in zip(before, after, strict=True))
        lost = scenario.streams - holding
        return Sample(scenario.name, target.name, round_, lost, faults, rss_kib=rss, pss_kib=pss)

    def measure(self, scenario: Scenario, names: Sequence[TargetName], rounds: int) -> Iterator[Sample]:
        """All rounds of a scenario, the targets in turn. Idle ones get a fresh process each time: memory stays."""
        if scenario.kind == "idle":
            for round_ in range(1, rounds + 1):
                for name in names:
                    if name != "direct":
                        with self.target(name) as target:
                            yield self.hold(scenario, target, round_)
            return
        with contextlib.ExitStack() as stack:
            targets = [stack.enter_context(self.target(name)) for name in names]
            for round_ in range(1, rounds + 1):
                for target in targets:
                    yield self.drive(scenario, target, round_)


BARE: Mapping[str, object] = {"SUBAK_LIMITS__ENABLED": "false", "SUBAK_AUDIT__ENABLED": "false"}
EVERYTHING: Mapping[str, object] = {
    "SUBAK_LIMITS__ENABLED": "true",
    "SUBAK_LIMITS__CHAT": UNLIMITED,
    "SUBAK_LIMITS__CHAT_NETWORK": UNLIMITED,
    "SUBAK_LIMITS__STREAMS_ANONYMOUS": UNLIMITED,
    "SUBAK_AUDIT__ENABLED": "true",
    "SUBAK_ADMIN__METRICS_PUBLIC": "true",
}


@contextlib.contextmanager
def scraping(admin_port: int) -> Iterator[None]:
    """Read /metrics once a second, as Prometheus does. Raises: BenchError if that failed a single time."""
    over = threading.Event()
    refused: list[int] = []

    def scrape() -> None:
        while not over.wait(SCRAPE_S):
            status = get_status(admin_port, "/metrics")
            if status != http.HTTPStatus.OK:
                refused.append(status)

    scraper = threading.Thread(target=scrape)
    scraper.start()
    try:
        yield
    finally:
        over.set()
        scraper.join()
    if refused:
        raise BenchError(f"/metrics was not to be had {len(refused)} times: {refused[0] or 'no answer'}")


def pin(core: int, *, is_pinned: bool) -> list[str]:
    """The prefix that keeps a command on one core, if pinning is asked for."""
    return ["taskset", "-c", str(core)] if is_pinned else []


def find_nginx() -> str:
    """Path of nginx, which is in /usr/sbin and so not on everybody's PATH. Raises: BenchError."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise BenchError(
            "nginx is not installed: apt-get install nginx-light, or leave it out with --targets direct,gateway"
        )
    return found


def wait_until(moment_s: float, load: subprocess.Popen[str], log: Path) -> None:
    """Returns at that second of the monotonic clock. Raises: BenchError if `load` ends before."""
    stay_alive(load, moment_s - time.monotonic(), log)


def read_line(load: subprocess.Popen[str], log: Path) -> str:
    """The next line of `load`, which has a deadline of its own. Raises: BenchError if it ends without."""
    line = load.stdout.readline() if load.stdout is not None else ""
    if not line:
        raise BenchError(f"load ended without a report:\n{tail(log)}")
    return line


def build() -> None:
    """Builds origin and load where they are older than their sources. Raises: BenchError."""
    if shutil.which("cc") is None:
        raise BenchError("no C compiler: apt-get install gcc libc6-dev")
    BUILD.mkdir(exist_ok=True)
    for name in ("origin", "load"):
        command = [
            "cc",
            "-std=gnu11",
            "-O2",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-o",
            str(BUILD / name),
            str(HERE / f"{name}.c"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(f"{' '.join(command)}:\n{done.stderr}")


def raise_file_limit() -> None:
    """Lets this process and what it starts open enough files. Raises: BenchError."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < WANTED_FILES:
        raise BenchError(f"the limit of open files is {hard}, {WANTED_FILES} are needed: ulimit -Hn {WANTED_FILES}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (WANTED_FILES, hard))


@contextlib.contextmanager
def opened(*, is_pinned: bool) -> Iterator[Bench]:
    """A bench with its origin running, in a folder that goes with it."""
    with tempfile.TemporaryDirectory(prefix="subak-bench-") as name:
        folder = Path(name)
        command = [*pin(1, is_pinned=is_pinned), str(BUILD / "origin")]
        with running(command, folder / "bench.log", reads_output=True) as origin:
            word, _, port = read_line(origin, folder / "bench.log").partition(" ")
            if word != "listening":
                raise BenchError("origin does not say where it listens")
            yield Bench(folder, is_pinned, origin, int(port))


def machine(options: Options) -> dict[str, str]:
    """What the figures depend on."""
    model = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    versions = [f"{name} {version(name)}" for name in ("subak", "aiohttp", "uvloop", "httptools", "msgspec")]
    compiler = subprocess.run(["cc", "--version"], capture_output=True, text=True, check=False).stdout.partition("\n")[
        0
    ]
    nginx = "not used"
    if "nginx" in options.targets:
        nginx = subprocess.run([find_nginx(), "-v"], capture_output=True, text=True, check=False).stderr.strip()
    return {
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{os.cpu_count()} x {model[0] if model else platform.machine()}",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "gateway": ", ".join(versions),
        "nginx": nginx.removeprefix("nginx version: "),
        "relay": relay_versions() if "relay" in options.targets else "not used",
        "compiler": compiler,
        "pinned": "target on core 0, origin and load on core 1" if options.is_pinned else "no: all share the cores",
        "rounds": str(options.rounds),
    }


def version(package: str) -> str:
    """The installed version of a package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def stolen_share(before: Sequence[int], after: Sequence[int]) -> float:
    """Share (0..1) of the time between two readings of /proc/stat that the host gave to others."""
    spent = [end - start for start, end in zip(before, after, strict=True)]
    return spent[7] / sum(spent[:8]) if sum(spent[:8]) else 0.0


def figure_of(kind: Kind) -> Callable[[Sample], float]:
    """What is compared with nginx in a scenario of this kind."""
    match kind:
        case "idle":
            return lambda sample: sample.rss_kib
        case "short" | "closed":
            return lambda sample: sample.cpu_us_per_request
        case "paced" | "turnover" | "flat":
            return lambda sample: sample.cpu_us_per_event


def ratios(samples: Sequence[Sample], yardstick: Sequence[Sample], figure: Callable[[Sample], float]) -> str:
    """The median of the rounds' ratios to nginx, with the least and the greatest."""
    by_round = {sample.round: figure(sample) for sample in yardstick}
    found = [figure(sample) / by_round[sample.round] for sample in samples if by_round.get(sample.round)]
    if not found or math.isnan(sum(found)):
        return "–"
    return f"{statistics.median(found):.2f} ({min(found):.2f} – {max(found):.2f})"


def median_of(samples: Sequence[Sample], figure: Callable[[Sample], float]) -> float:
    """The median over the rounds."""
    return statistics.median(figure(sample) for sample in samples)


def quantile_cells(samples: Sequence[Sample], kind: Kind) -> list[str]:
    """p50, p99 (medians of the rounds) and the greatest of all, in microseconds."""
    chosen = [quantiles_of(sample, kind) for sample in samples]
    seen = [quantiles for quantiles in chosen if quantiles is not None]
    p50, p99 = (statistics.median(getattr(each, name) for each in seen) for name in ("p50", "p99"))
    return [f"{p50:,.0f}", f"{p99:,.0f}", f"{max(each.max for each in seen):,.0f}"]


def quantiles_of(sample: Sample, kind: Kind) -> Quantiles | None:
    """The latency that a scenario of this kind is about."""
    match kind:
        case "short" | "closed":
            return sample.response_us
        case "turnover":
            return sample.first_us
        case "paced" | "flat" | "idle":
            return sample.latency_us


def added(samples: Sequence[Sample], direct: Sequence[Sample]) -> str:
    """What a target adds to a first token at p99 over the direct path of the same round: the median of the rounds."""
    by_round = {sample.round: sample.first_us.p99 for sample in direct if sample.first_us is not None}
    found = [s.first_us.p99 - by_round[s.round] for s in samples if s.first_us is not None and s.round in by_round]
    return f"{statistics.median(found):,.0f} ({min(found):,.0f} – {max(found):,.0f})" if found else "–"


def shown(figure: float) -> str:
    """A figure with as many digits as it deserves."""
    return f"{figure:.1f}" if figure >= 10 else f"{figure:.2f}"  # noqa: PLR2004 - three digits or so


def lost(samples: Sequence[Sample]) -> int:
    """Streams that were not whole and faults seen, over all rounds."""
    return sum(max(sample.lost, sum(sample.faults.values())) for sample in samples)


def row(scenario: Scenario, name: TargetName, samples: Sequence[Sample]) -> list[str]:
    """The cells of one target."""
    own = [sample for sample in samples if sample.target == name]
    figure = figure_of(scenario.kind)
    compared = "–" if name == "direct" else ratios(own, [s for s in samples if s.target == "nginx"], figure)
    cells = [name, shown(median_of(own, figure)), compared]
    if scenario.kind == "idle":
        return [*cells, f"{median_of(own, lambda sample: sample.pss_kib):.1f}", str(lost(own))]
    per_second = median_of(own, lambda s: (s.requests if is_of_requests(scenario.kind) else s.events) / s.window_s)
    cells += quantile_cells(own, scenario.kind)
    if scenario.kind == "turnover":
        cells.append("–" if name == "direct" else added(own, [s for s in samples if s.target == "direct"]))
    return [*cells, f"{per_second:,.0f}", str(lost(own))]


def is_of_requests(kind: Kind) -> bool:
    """Whether a scenario counts requests, not events."""
    return kind in {"short", "closed"}


def header(kind: Kind) -> list[str]:
    """The heads of the columns."""
    if kind == "idle":
        return ["target", "KiB RSS/stream", "× nginx", "KiB PSS/stream", "lost"]
    if kind == "turnover":
        first = ["first token p50 µs", "p99 µs", "max µs", "added at p99"]
        return ["target", "CPU µs/event", "× nginx", *first, "events/s", "lost"]
    unit = "request" if is_of_requests(kind) else "event"
    return ["target", f"CPU µs/{unit}", "× nginx", "p50 µs", "p99 µs", "max µs", f"{unit}s/s", "lost"]


def table(scenario: Scenario, samples: Sequence[Sample]) -> str:
    """One scenario as Markdown: the table, each round's figure, and what else the machine was doing."""
    names = [name for name in TARGETS if any(sample.target == name for sample in samples)]
    heads = header(scenario.kind)
    lines = [
        f"### {scenario.name}: {scenario.title}",
        "",
        *markdown(heads, [row(scenario, name, samples) for name in names]),
        "",
    ]
    figure = figure_of(scenario.kind)
    rounds = [f"{name} {' '.join(shown(figure(s)) for s in samples if s.target == name)}" for name in names]
    lines.append(f"Each round, {heads[1]}: {' · '.join(rounds)}.")
    if scenario.kind == "idle":
        return "\n".join(lines)
    shares = {
        "origin": max(sample.origin_cpu_s / sample.window_s for sample in samples),
        "load": max(sample.load_cpu_s / sample.window_s for sample in samples),
        "everything else on the machine": max(sample.other_cpu_s / sample.window_s for sample in samples),
    }
    busy = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    lines.append(f"Window {scenario.window_s:g} s. Share of one core, at most: {busy}.")
    if max(shares["origin"], shares["load"]) > BUSY_SHARE:
        lines.append("Origin or load had no CPU left: throughput and latency are theirs, not the target's.")
    if shares["everything else on the machine"] > OTHERS_SHARE:
        lines.append("Something else was running: do not publish these figures.")
    return "\n".join(lines)


def growth(samples: Sequence[Sample], scenarios: Sequence[Scenario]) -> str:
    """CPU per event by the number of streams, at the same events a second; empty where that was not measured."""
    chosen = [scenario for scenario in scenarios if scenario.name.startswith("grow")]
    names = [name for name in TARGETS if any(s.target == name and s.scenario.startswith("grow") for s in samples)]
    if not chosen or not names:
        return ""
    rows = [
        [name, *(growth_cell([s for s in samples if (s.target, s.scenario) == (name, each.name)]) for each in chosen)]
        for name in names
    ]
    heads = ["CPU µs/event", *(f"{scenario.streams} streams" for scenario in chosen)]
    return "\n".join(["### Growth, at 5 000 events/s in all", "", *markdown(heads, rows)])


def growth_cell(samples: Sequence[Sample]) -> str:
    """One target at one number of streams; p99 latency in brackets."""
    p99 = statistics.median(sample.latency_us.p99 for sample in samples if sample.latency_us is not None)
    return f"{shown(median_of(samples, lambda sample: sample.cpu_us_per_event))} (p99 {p99:,.0f} µs)"


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    rule = ["---", *("---:" for _ in heads[1:])]
    return [f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows)]


def describe(sample: Sample, scenario: Scenario) -> str:
    """One line for whoever waits."""
    figure = figure_of(scenario.kind)(sample)
    unit = header(scenario.kind)[1]
    faults = {name: count for name, count in sample.faults.items() if count}
    trouble = f"  LOST {sample.lost} {faults}" if sample.lost or faults else ""
    return f"{scenario.name:9} round {sample.round}  {sample.target:8} {shown(figure):>8} {unit}{trouble}"


def run(options: Options) -> int:
    """Measures, prints. Returns: 1 if anything was lost."""
    raise_file_limit()
    build()
    start = read_cpu_line()
    samples: list[Sample] = []
    with opened(is_pinned=options.is_pinned) as bench:
        for scenario in options.scenarios:
            for sample in bench.measure(scenario, options.targets, options.rounds):
                samples.append(sample)
                print(describe(sample, scenario), file=sys.stderr, flush=True)
    facts = machine(options) | {
        "stolen by the host": f"{stolen_share(start, read_cpu_line()):.1%}",
        "the gate": str(gate.measure()),
    }
    print("\n".join(f"- {name}: {value}" for name, value in facts.items()))
    for scenario in options.scenarios:
        print("\n" + table(scenario, [sample for sample in samples if sample.scenario == scenario.name]))
    if grown := growth(samples, options.scenarios):
        print("\n" + grown)
    if options.json_file is not None:
        text = json.dumps({"machine": facts, "samples": [asdict(sample) for sample in samples]}, indent=1)
        options.json_file.write_text(text + "\n")
    return int(lost([sample for sample in samples if sample.target != "relay"]) > 0)


def leave(signum: int, _frame: FrameType | None) -> None:
    """Turns a signal into an exit that runs every clean-up on the way."""
    raise SystemExit(128 + signum)


def main(arguments: Sequence[str]) -> int:
    """The command. Returns: 0, 1 where something was lost or could not be measured, 130 after Ctrl-C."""
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGHUP, leave)
    try:
        return run(read_options(arguments))
    except (BenchError, RelayError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
