"""What commands share: the store that is meant, completion, colours, figures, and errors that have a status."""

import json
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import helios_shm
from helios_shm import cli
from helios_shm.cli import exits, measuring, output, references
from tests.command_line import call, good


@pytest.fixture
def held(store_path: Path) -> Iterator[helios_shm.Engine]:
    """A store that stays open, so that each command finds its segment and coordinator."""
    with helios_shm.open(store_path, l1_bytes=8 << 20) as engine:
        with engine.branch("main").transaction("begin") as ws:
            ws["a"] = b"1"
        yield engine


def test_store_is_found_by_option_variable_and_directory(
    held: helios_shm.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HELIOS_STORE", str(held.path))
    assert good("ls").out == "a\n"
    assert call("ls", store=tmp_path / "none").status == 3
    monkeypatch.delenv("HELIOS_STORE")
    below = tmp_path / "project" / "deep" / "down"
    below.mkdir(parents=True)
    (tmp_path / "project" / ".helios").symlink_to(held.path)
    monkeypatch.chdir(below)
    assert good("ls").out == "a\n"


def test_store_that_cannot_be_written_is_read_and_not_changed(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with helios_shm.open(store_path) as engine, engine.branch("main").transaction() as ws:
        ws["a"] = b"1"
    monkeypatch.setattr("helios_shm.lifecycle.is_writable", lambda paths: False)
    assert good("cat", "a", store=store_path).raw == b"1"
    assert good("materialize", store_path.parent / "out", store=store_path).lines[0].startswith("1 written")
    assert call("put", "a", "--text", "2", store=store_path).status == 7


def test_entry_point_is_the_command_line() -> None:
    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"helios-shm": "helios_shm.cli:main"} and callable(cli.main)
    assert good("--version").out == f"helios-shm {project['version']}\n"
    assert good().out == good("--help").out


def test_mistyped_option_is_no_command_to_run(held: helios_shm.Engine) -> None:
    for command in ("run", "watch", "bench"):
        assert call(command, "--kep", "--", "true", store=held.path).status == 2


def test_full_benchmarks_are_in_the_source_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helios_shm.cli.shell._TREE", tmp_path)
    assert call("bench", "--full").status == 3
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "__init__.py").touch()
    (tmp_path / "bench" / "__main__.py").write_text("import sys; sys.exit(len(sys.argv))")
    assert call("bench", "--full", "--", "--one", "two").status == 3


def test_shell_completes_commands_branches_and_paths(
    held: helios_shm.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def completed(*words: str) -> list[str]:
        monkeypatch.setenv("_HELIOS_SHM_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_WORDS", " ".join(["helios-shm", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        return [line.partition(",")[2] for line in call().lines if line]

    monkeypatch.setenv("HELIOS_STORE", str(held.path))
    for name in ("idea/one", "main"):
        with held.branch(name).transaction() as ws:
            ws["notes/today"] = b""
    held.tag("made", held.empty)
    assert completed("mat") == ["materialize"]
    assert completed("log", "--branch", "id") == ["idea/one"]
    assert completed("cat", "notes/") == ["notes/today"]
    assert completed("show", "ma") == ["main", "made"]
    monkeypatch.setenv("HELIOS_STORE", "/nowhere")
    assert completed("show", "ma") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_for_each_shell(shell: str) -> None:
    assert "_HELIOS_SHM_COMPLETE" in good("completion", shell).out


def test_measurement_and_counters_are_reported(
    held: helios_shm.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("helios_shm.cli.shell._COMMITS", 50)
    figures = json.loads(good("bench", "--json").out)
    assert all(0 < each["p50"] <= each["p99"] for each in figures.values()) and len(figures) == 4
    assert good("bench").lines[0].split() == ["operation", "n", "p50", "p99"]
    assert json.loads(good("stats", "--json", store=held.path).out)["commits"] == 1
    assert "latencies.commit" in good("stats", store=held.path).out
    assert 'helios_shm_commits_total{store="' in good("stats", "--prometheus", store=held.path).out
    assert call("bench", "more").status == 2


def test_one_frame_of_top_says_what_was_done_since_the_last(held: helios_shm.Engine) -> None:
    frame = json.loads(good("top", "--once", "--interval", "0.05", "--json", store=held.path).out)
    assert frame["commits_per_second"] == 0 and frame["commit_p99"] >= frame["commit_p50"] > 0
    assert frame["ring_bytes"] == held.stats().l1_bytes and 0 <= frame["ring_occupied"] <= 1
    names = [line.split("  ")[0] for line in good("top", "--once", "-i", "0.05", store=held.path).lines]
    assert {"commits", "latency", "hit rate", "participants", "ring", "coordinator", "lag"} <= set(names)
    before = held.stats()
    with held.branch("main").transaction() as ws:
        ws["a"] = b"3"
    assert measuring.Frame(held.stats(), before, 0.5).rate("commits") == 2
    assert call("top", store=held.path).status == call("top", "--json", store=held.path).status == 2


@pytest.mark.parametrize(("share", "drawn"), [(0.0, 0), (0.5, 12), (1.0, 24), (7.0, 24)])
def test_bar_is_as_long_as_its_share(share: float, drawn: int) -> None:
    assert measuring.bar(share).count("#") == drawn and len(measuring.bar(share)) == 24


def test_doctor_reports_what_is_to_do(held: helios_shm.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    # Other sessions' segments are none of this test's business.
    monkeypatch.setattr("helios_shm.doctor._leftovers", lambda path: iter(()))
    monkeypatch.setattr("helios_shm.doctor._machine", lambda: iter(()))
    held.sync()
    assert good("doctor", store=held.path).lines == [f"{held.path}: nothing to do"]
    (held.path / "db").chmod(0o755)
    done = call("doctor", store=held.path)
    assert (
        done.status == 1 and done.lines[0].startswith("warning: permissions: ") and "--fix" in done.lines[1]
    )
    report = json.loads(call("doctor", "--json", store=held.path).out)
    assert not report["ok"] and [each["mended"] for each in report["findings"]] == [False]
    assert good("doctor", "--fix", store=held.path).lines[0].startswith("mended: permissions: ")
    monkeypatch.chdir("/")
    assert good("doctor").lines == ["no store here; this machine: nothing to do"]


def test_damage_is_reported_with_status_1(held: helios_shm.Engine) -> None:
    (held.path / "blobs" / "stray").write_bytes(b"")
    done = call("check", store=held.path)
    assert done.status == exits.DIFFERENT and "stray" in done.out and "damaged" in done.lines[-1]
    assert json.loads(call("check", "--json", store=held.path).out)["ok"] is False


def test_references_name_commits_by_sequence_time_tag_and_id(held: helios_shm.Engine) -> None:
    branch = held.branch("main")
    first = branch.last_commit
    with branch.transaction("second") as ws:
        ws["a"] = b"2"
    held.tag("v1", first.snapshot)
    for reference in (
        "main@1",
        "@1",
        f"main@{first.time.isoformat()}",
        "v1",
        first.snapshot.id,
        first.snapshot.id[:10],
    ):
        assert references.snapshot_of(held, reference, "main") == first.snapshot
        assert references.commit_of(held, reference, "main").sequence == 1
    assert references.commit_of(held, None, "main").message == "second"
    with pytest.raises(helios_shm.NotFoundError, match="no branch's log"):
        references.commit_of(held, held.empty.id, "main")


def test_control_characters_are_visible() -> None:
    assert output.visible("a\nb\x1b[1m\x7f\u202e") == r"a\nb\x1b[1m\x7f\u202e"
    assert output.visible("plain \xe9 text") == "plain \xe9 text"


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 << 30, "5.0 GiB"), (3 << 40, "3.0 TiB")],
)
def test_sizes_are_rounded_for_people(size: int, text: str) -> None:
    assert output.size(size) == text


def test_errors_outside_of_the_store_and_of_the_program_have_their_status(
    held: helios_shm.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = call("bundle", "create", tmp_path / "no" / "file", store=held.path)
    assert done.status == 10 and str(tmp_path) in done.err
    assert call("bundle", "import", os.devnull, store=held.path).status == 8
    monkeypatch.setattr("helios_shm.cli.values.snapshot_of", lambda *given: 1 / 0)
    done = call("ls", store=held.path)
    assert done.status == exits.INTERNAL and "ZeroDivisionError" in done.err
