"""Fuzzing, in three steps that each stand alone.

    replay   every input of a target's corpus, and every seed, through a program that gcc made: ASan and UBSan
    fuzz     clang's libFuzzer goes on from there: so many inputs from this seed, or for so many seconds
    minimise what was found (``python -m tests.fuzz.run --merge``): the few inputs that reach all that is reached

A target is tests/fuzz/NAME.c. Its corpus is tests/fuzz/corpus/NAME: files named ``found-...`` once broke something, and
stay; the others are what fuzzing has found to reach different code. What the two begin with is in seeds.py.

    make fuzz FUZZ_SECONDS=600            each target for ten minutes; new inputs go to build/fuzz/NAME
    python -m tests.fuzz.run --target tree --seconds 60 --seed 7
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.crash import debian
from tests.fuzz import seeds

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CORPUS = HERE / "corpus"

# Bytes of an input: enough for every structure that a target makes of them.
SIZES = {"node": 3000, "record": 2000, "pack": 4096, "locator": 1500, "tree": 256, "segment": 256}
TARGETS = tuple(SIZES)

# A report ends the program at once; what it read is in memory of exactly its size.
_SANITIZERS = {
    "ASAN_OPTIONS": "abort_on_error=0:exitcode=66:detect_leaks=1:allocator_may_return_null=1",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1:exitcode=66",
}
# One input may take so long; the longest there are take some hundredths.
_INPUT_SECONDS = 20
_MEMORY_MB = 2048
# All of a corpus takes some seconds; what takes so long goes on without end.
_REPLAY_SECONDS = 300.0
_PACKAGES = ("clang-14", "libclang-rt-14-dev")


@dataclass(frozen=True)
class Report:
    """What a program that ran a target's inputs had to say."""

    target: str
    inputs: int
    # A sanitizer's or a broken promise's words; empty: nothing was found.
    found: str
    # The input that it was, if it is known.
    culprit: Path | None = None
    # Edges of the code that were reached, as libFuzzer counts them; 0 after a replay.
    reached: int = 0


def inputs(target: str, directory: Path) -> list[Path]:
    """The corpus of a target and its seeds, the latter written to ``directory``."""
    made = directory / f"seeds-{target}"
    made.mkdir(parents=True, exist_ok=True)
    for name, data in seeds.inputs(target):
        (made / name).write_bytes(data)
    return sorted((CORPUS / target).iterdir()) + sorted(made.iterdir())


def replay(program: Path, target: str, files: Sequence[Path], directory: Path) -> Report:
    """Run every input through a replay program, in order; it stops at the first report."""
    done = _run([str(program), *map(str, files)], directory, _REPLAY_SECONDS)
    names = [line for line in done.stdout.splitlines() if line.startswith("/")]
    if done.returncode == 0:
        return Report(target, len(names), "")
    return Report(target, len(names), _words(done), Path(names[-1]) if names else None)


def fuzz(
    program: Path, target: str, directory: Path, *, seed: int, runs: int = 0, seconds: int = 0
) -> Report:
    """Go on from corpus and seeds: ``runs`` inputs, the same for the same seed, or for ``seconds``.

    New inputs that reach more stay in directory/new-TARGET.
    """
    new = directory / f"new-{target}"
    new.mkdir(parents=True, exist_ok=True)
    files = inputs(target, directory)
    begun = directory / f"begun-{target}"
    begun.mkdir(exist_ok=True)
    for number, file in enumerate(files):
        shutil.copyfile(file, begun / f"{number:05}")
    bound = [f"-runs={len(files) + runs}"] if runs else [f"-max_total_time={seconds}"]
    done = _run(
        [
            str(program), f"-seed={seed % (1 << 31) + 1}", *bound, f"-max_len={SIZES[target]}", "-len_control=0",
            f"-timeout={_INPUT_SECONDS}", f"-rss_limit_mb={_MEMORY_MB}", "-reload=0", "-print_final_stats=1",
            f"-artifact_prefix={directory}/{target}-", str(new), str(begun),
        ],
        directory,
    )  # fmt: skip
    text = done.stderr
    ran = re.findall(r"number_of_executed_units: (\d+)", text)
    reached = re.findall(r"cov: (\d+)", text)
    report = Report(target, int(ran[-1]) if ran else 0, "", None, int(reached[-1]) if reached else 0)
    if done.returncode == 0:
        return report
    unit = re.findall(r"Test unit written to (\S+)", text)
    culprit = Path(unit[-1]) if unit else None
    return Report(target, report.inputs, _words(done), culprit, report.reached)


def merge(program: Path, target: str, directory: Path, more: Sequence[Path]) -> list[Path]:
    """A few inputs that reach all code that the corpus and ``more`` reach; what seeds reach is left out."""
    chosen = directory / f"merged-{target}"
    chosen.mkdir(parents=True)
    begun = directory / f"begun-{target}"
    begun.mkdir()
    known = [file for file in inputs(target, directory) if file.name.startswith(("seed-", "found-"))]
    for number, file in enumerate(known):
        shutil.copyfile(file, chosen / f"{number:05}")
    before = set(chosen.iterdir())
    for number, file in enumerate([*(CORPUS / target).iterdir(), *more]):
        shutil.copyfile(file, begun / f"{number:05}")
    done = _run(
        [
            str(program),
            "-set_cover_merge=1",
            "-use_counters=0",
            f"-max_len={SIZES[target]}",
            str(chosen),
            str(begun),
        ],
        directory,
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-2000:])
    return sorted(set(chosen.iterdir()) - before)


def clang() -> str:
    """A clang that has libFuzzer, installed where there is none. debian.NotInstalled."""
    names = [os.environ.get("CLANG", ""), "clang-14", "clang", *(f"clang-{n}" for n in range(19, 12, -1))]
    for name in names:
        if name and _has_fuzzer(name):
            return name
    debian.install(lambda: _has_fuzzer(_PACKAGES[0]), *_PACKAGES)
    return _PACKAGES[0]


def _has_fuzzer(name: str) -> bool:
    if shutil.which(name) is None:
        return False
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory, "probe.c")
        source.write_text("int LLVMFuzzerTestOneInput(const char *d, long s) { return d && s < 0; }\n")
        command = [name, "-fsanitize=fuzzer,address", "-o", str(source.with_suffix("")), str(source)]
        return subprocess.run(command, capture_output=True).returncode == 0


def build(compiler: str, tree: Path, targets: Sequence[str]) -> dict[str, Path]:
    """The targets against the C core of a tree, with libFuzzer."""
    made = {target: tree / "build" / "c" / "fuzz" / target for target in targets}
    names = [str(path.relative_to(tree)) for path in made.values()]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))
    }
    environment["PYTHON"] = sys.executable
    jobs = f"-j{os.cpu_count() or 1}"
    command = ["make", "--no-print-directory", "-s", jobs, f"CLANG={compiler}", *names]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return made


def _run(
    command: list[str], directory: Path, seconds: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run to its end; what it has left in shared memory, if it was ended by a report, is removed."""
    directory.mkdir(parents=True, exist_ok=True)
    with (
        open(directory / "out", "w+", errors="replace") as out,
        open(directory / "err", "w+", errors="replace") as err,
    ):
        environment = {**os.environ, **_SANITIZERS}
        with subprocess.Popen(command, cwd=directory, env=environment, stdout=out, stderr=err) as child:
            try:
                code = child.wait(seconds)
            except subprocess.TimeoutExpired:
                code = 124
            finally:
                child.kill()
                child.wait()
                for path in Path("/dev/shm").glob(f"helios-fuzz-*{child.pid}*"):
                    path.unlink(missing_ok=True)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(command, code, out.read(), err.read())


def _words(done: subprocess.CompletedProcess[str]) -> str:
    """The line that says what was found."""
    signs = r".*(?:broken promise|runtime error|ERROR: \w+Sanitizer|ERROR: libFuzzer|Assertion).*"
    if done.returncode == 124:
        return f"it has not ended in {_REPLAY_SECONDS:.0f} s"
    lines = re.findall(signs, done.stderr)
    return lines[0].strip() if lines else f"exit status {done.returncode}: {done.stderr[-300:].strip()}"


@contextmanager
def _scratch() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="helios-fuzz-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description="Fuzz the C core.")
    parser.add_argument(
        "--target", action="append", choices=TARGETS, help="this one only; may be given several times"
    )
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--merge", action="store_true", help="then keep in the corpus what reaches more")
    options = parser.parse_args(arguments)
    targets = options.target or TARGETS
    try:
        programs = build(clang(), ROOT, targets)
    except debian.NotInstalled as error:
        print(error, file=sys.stderr)
        return 2
    return max(_one(programs[target], target, options) for target in targets)


def _one(program: Path, target: str, options: argparse.Namespace) -> int:
    kept = ROOT / "build" / "fuzz" / target
    kept.mkdir(parents=True, exist_ok=True)
    with _scratch() as directory:
        for file in kept.iterdir():
            (directory / f"new-{target}").mkdir(exist_ok=True)
            shutil.copyfile(file, directory / f"new-{target}" / file.name)
        report = fuzz(program, target, directory, seed=options.seed, seconds=options.seconds)
        for file in (directory / f"new-{target}").iterdir():
            shutil.copyfile(file, kept / file.name)
        print(
            f"{target}: {report.inputs} inputs, {report.reached} edges: {report.found or 'no report'}",
            flush=True,
        )
        if report.culprit is not None:
            shutil.copyfile(report.culprit, kept.parent / report.culprit.name)
            print(f"  the input: {kept.parent / report.culprit.name}")
        if options.merge and not report.found:
            _keep(program, target, directory, sorted(kept.iterdir()))
    return 1 if report.found else 0


def _keep(program: Path, target: str, directory: Path, more: Sequence[Path]) -> None:
    chosen = [file.read_bytes() for file in merge(program, target, directory / "merge", more)]
    for file in (CORPUS / target).iterdir():
        if not file.name.startswith("found-"):
            file.unlink()
    for number, data in enumerate(sorted(chosen, key=lambda data: (len(data), data))):
        (CORPUS / target / f"{number:03}").write_bytes(data)
    print(f"  corpus: {len(chosen)} inputs, {sum(map(len, chosen))} bytes")


if __name__ == "__main__":
    sys.exit(main())
