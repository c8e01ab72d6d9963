"""dev.py decides what to install, and says what it did."""

import sys
from pathlib import Path

import pytest

import dev


def test_each_missing_command_brings_its_debian_package() -> None:
    plan = dev.debian_plan(["nginx", "chromium", "node", "npm"], is_root=True, has_apt=True)
    assert plan.refusal == ""
    assert plan.steps[-1].command[-4:] == ("chromium", "nginx-light", "nodejs", "npm")


def test_missing_packages_are_installed_by_one_call() -> None:
    plan = dev.debian_plan(list(dev.DEBIAN), is_root=True, has_apt=True)
    assert [step.command[:2] for step in plan.steps] == [("apt-get", "update"), ("apt-get", "install")]


def test_npm_is_not_asked_for_where_it_exists() -> None:
    plan = dev.debian_plan(["nginx"], is_root=True, has_apt=True)
    assert "npm" not in plan.steps[-1].command
    assert "nodejs" not in plan.steps[-1].command


def test_nothing_missing_installs_nothing() -> None:
    assert dev.debian_plan([], is_root=False, has_apt=False) == dev.DebianPlan()


def test_only_what_is_wanted_is_looked_for() -> None:
    assert dev.missing_commands(("no-such-command", "sh")) == ["no-such-command"]


def test_without_root_the_exact_command_is_told() -> None:
    plan = dev.debian_plan(["nginx", "npm"], is_root=False, has_apt=True)
    assert plan.steps == ()
    assert "apt-get install --yes --no-install-recommends nginx-light npm" in plan.refusal


def test_without_apt_the_missing_commands_are_told() -> None:
    plan = dev.debian_plan(["chromium"], is_root=True, has_apt=False)
    assert plan.steps == ()
    assert "chromium" in plan.refusal


def test_without_pip_the_debian_package_is_told() -> None:
    assert "apt-get install python3-pip" in dev.pip_refusal(has_pip=False, is_venv=False)


def test_inside_a_virtual_environment_without_pip_leaving_it_is_told() -> None:
    assert "deactivate" in dev.pip_refusal(has_pip=False, is_venv=True)


def test_fingerprint_changes_with_each_file_and_fact(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("a")
    two.write_text("b")
    marks = [
        dev.fingerprint([one, two], "3.11"),
        dev.fingerprint([two, one], "3.11"),
        dev.fingerprint([one, two], "3.12"),
        dev.fingerprint([one], "3.11"),
    ]
    two.write_text("c")
    marks.append(dev.fingerprint([one, two], "3.11"))
    assert len(set(marks)) == len(marks)


def test_stamp_holds_for_its_own_mark_only(tmp_path: Path) -> None:
    stamp = tmp_path / "stamp"
    assert not dev.is_stamped(stamp, "mark")
    stamp.write_text("mark")
    assert dev.is_stamped(stamp, "mark")
    assert not dev.is_stamped(stamp, "other")


def test_failed_step_prints_all_its_output_and_stops_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    fails = dev.Step("breaks", (sys.executable, "-c", "print('first'); print('last'); raise SystemExit(3)"))
    never = dev.Step("never", (sys.executable, "-c", "print('ran')"))
    with pytest.raises(dev.StepError):
        dev.run_in_turn([fails, never])
    told = capsys.readouterr().out
    assert "exit code 3" in told
    assert "first\nlast\n" in told
    assert "never" not in told


def test_step_that_works_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    dev.run_in_turn([dev.Step("works", (sys.executable, "-c", "print('noise')"))])
    assert capsys.readouterr().out.count("\n") == 1


def test_side_by_side_all_steps_end_before_one_failure_stops_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    fails = dev.Step("breaks", (sys.executable, "-c", "raise SystemExit(1)"))
    works = dev.Step("works", (sys.executable, "-c", ""))
    with pytest.raises(dev.StepError, match="breaks"):
        dev.run_side_by_side([fails, works, works])
    assert capsys.readouterr().out.count("works") == 2


@pytest.mark.parametrize("line", ["--index-url https://host/simple", "a @ file:///x/a.whl", "--find-links /x"])
def test_lock_that_names_a_place_to_fetch_from_is_found_out(line: str) -> None:
    assert dev.foreign_lines(f"a==1 \\\n    --hash=sha256:00\n{line}\n") == [line]


@pytest.mark.parametrize("name", dev.LOCKS)
def test_lock_names_no_place_and_hashes_everything(name: str) -> None:
    lock = (dev.ROOT / name).read_text()
    assert dev.foreign_lines(lock) == []
    pins = [line for line in lock.splitlines() if line[:1].isalnum()]
    assert pins
    assert all("==" in pin and pin.endswith("\\") for pin in pins)


def test_node_lock_names_no_place() -> None:
    assert "://" not in (dev.NODE / "package-lock.json").read_text()


def test_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert dev.main(["deploy"]) == 2
    assert "./dev.py up" in capsys.readouterr().err


def test_every_command_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert dev.main(["--help"]) == 0
    told = capsys.readouterr().out
    assert all(f"./dev.py {command}" in told for command in dev.COMMANDS)


def test_ci_runs_the_test_command_of_the_readme_and_nothing_else() -> None:
    lines = (dev.ROOT / ".ci" / "run").read_text().splitlines()
    commands = [line for line in lines if line and not line.startswith("#")]
    assert commands == ["set -eu", 'cd "$(dirname "$0")/.."', "exec ./dev.py test"]


def test_a_soak_of_all_tests_writes_its_page_and_one_of_some_does_not() -> None:
    assert dev.soak_arguments([]) == ["--timeout=3600", "--soak-report=docs/soak.md"]
    assert dev.soak_arguments(["-k", "u17"]) == ["--timeout=3600", "-k", "u17"]
