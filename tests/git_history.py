"""A git repository with a history of any length, of all that trees can do, made with git's own plumbing.

    write_history   `git fast-import` of generated commits: branches that are merged (two and three parents), files that
                    change, move, go, become links, executable, directories and back; names in any script; binary and
                    large values; people and messages of odd kinds

and git's own answers about one: what a commit's tree holds, what differs between two.
"""

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
_NAMES = [
    "a",
    "b.txt",
    "lib",
    "src",
    "\u00fcber",
    "\u6587\u4ef6",
    "sp ace",
    'q"uote',
    "-dash",
    "A",
    "new\nline",
    "\U0001f600",
]
_WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]

Tree = dict[str, tuple[bytes, bytes]]  # path -> (mode, value)


def git(path: Path, *words: str, given: bytes | None = None) -> bytes:
    """Standard output of a git command in a repository."""
    command = ["git", "-c", "safe.directory=*", "-C", str(path), *words]
    return subprocess.run(command, input=given, capture_output=True, check=True).stdout


def init(path: Path) -> Path:
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(path)], check=True)
    return path


class _Line:
    """A line of development: its newest commit and what that holds."""

    def __init__(self, mark: int, tree: Tree) -> None:
        self.mark, self.tree = mark, tree


def _value(choose: random.Random) -> bytes:
    size = choose.choice([0, 1, 40, 64, 65, 300, 3000])
    if choose.random() < 0.3:
        return choose.randbytes(size)
    return " ".join(choose.choices(_WORDS, k=size // 6)).encode()


def _free(tree: Tree, path: str) -> bool:
    """Could this path be a file: nothing below it, none of its directories a file?"""
    parts = path.split("/")
    above = {"/".join(parts[:n]) for n in range(1, len(parts))}
    return not (above & tree.keys()) and not any(other.startswith(path + "/") for other in tree)


def _some_path(choose: random.Random) -> str:
    return "/".join(choose.choices(_NAMES, k=choose.choice([1, 1, 2, 2, 3, 5])))


def _change(choose: random.Random, tree: Tree) -> None:
    """One change of a tree."""
    path = choose.choice(list(tree)) if tree and choose.random() < 0.6 else _some_path(choose)
    action = choose.random()
    if path in tree and action < 0.15:
        del tree[path]
    elif path in tree and action < 0.3:
        target = _some_path(choose)
        moved = tree.pop(path)
        tree[target if _free(tree, target) else path] = moved
    elif path in tree and action < 0.4:
        mode, value = tree[path]
        tree[path] = (b"100755" if mode == b"100644" else b"100644", value)
    elif path in tree and action < 0.45:
        value = tree.pop(path)[1]
        tree[path + "/now a directory"] = (b"100644", value)
    elif action < 0.5:
        for other in [other for other in tree if other.startswith(path + "/")]:
            del tree[other]
        if _free(tree, path):
            tree[path] = (b"120000", _some_path(choose).encode())
    elif _free(tree, path) or path in tree:
        tree[path] = (choose.choice([b"100644", b"100644", b"100755"]), _value(choose))


def _quoted(path: str) -> bytes:
    text = path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return b'"' + text.encode() + b'"'


def _commit(
    choose: random.Random, mark: int, ref: str, parents: list[int], before: Tree, tree: Tree
) -> bytes:
    """A commit as `git fast-import` reads it."""
    seconds = 1_000_000_000 + mark * 61
    zone = choose.choice(["+0000", "-0730", "+1400"])
    message = choose.choice(["", "short\n", "no line end", "Subject\n\nBody\n\n", "\u00e4\u6587\n"]).encode()
    who = choose.choice(["A <a@x>", "\u00c4 \u6587 <b@y>", " <>"])
    parts = [f"commit {ref}\nmark :{mark}\nauthor {who} {seconds - 7} +0100\n".encode()]
    parts.append(f"committer C <c@z> {seconds} {zone}\ndata {len(message)}\n".encode() + message + b"\n")
    if parents:
        parts.append(f"from :{parents[0]}\n".encode())
    parts += [f"merge :{parent}\n".encode() for parent in parents[1:]]
    parts += [b"D %b\n" % _quoted(path) for path in before.keys() - tree.keys()]
    for path in sorted(tree):
        mode, value = tree[path]
        if before.get(path) != (mode, value):
            parts.append(b"M %b inline %b\ndata %d\n%b\n" % (mode, _quoted(path), len(value), value))
    return b"".join(parts)


def _stream(commits: int, seed: int, files: int) -> Iterator[bytes]:
    choose = random.Random(seed)
    first: Tree = {"large.bin": (b"100644", choose.randbytes(400_000))}
    for number in range(files):
        first[f"pkg/m{number % 17}/file{number}.py"] = (b"100644", _value(choose))
    lines: list[_Line] = []
    for mark in range(1, commits + 1):
        last = mark == commits
        if not lines:
            parents, before, tree = [], {}, first
        elif len(lines) > 1 and (last or choose.random() < 0.25):
            joined = lines if last else choose.sample(lines, min(len(lines), choose.choice([2, 2, 3])))
            parents, before = [line.mark for line in joined], joined[0].tree
            tree = {**before, **{p: e for p, e in joined[1].tree.items() if _free(before, p)}}
            tree = {p: e for p, e in tree.items() if _free(tree, p)}
            lines = [line for line in lines if line not in joined]
        else:
            line = choose.choice(lines)
            parents, before, tree = [line.mark], line.tree, dict(line.tree)
            for _ in range(choose.choice([0, 1, 1, 2, 5])):
                _change(choose, tree)
            if len(lines) > 3 or choose.random() < 0.8:
                lines.remove(line)
        lines.append(_Line(mark, dict(tree)))
        yield _commit(choose, mark, "refs/heads/main", parents, before, tree)


def write_history(path: Path, commits: int, *, seed: int = 1, files: int = 30) -> Path:
    """A bare repository whose branch `main` has so many commits, all of them reachable from its end."""
    init(path)
    git(path, "fast-import", "--quiet", "--force", given=b"".join(_stream(commits, seed, files)))
    return path


def commits_of(path: Path, ref: str = "HEAD") -> list[str]:
    return git(path, "rev-list", "--topo-order", "--reverse", ref).decode().split()


def listed(path: Path, commit: str) -> dict[str, tuple[str, str]]:
    """`git ls-tree -r`: path -> (mode, id of the blob)."""
    found = {}
    for row in git(path, "ls-tree", "-r", "-z", "--full-tree", commit).split(b"\0")[:-1]:
        about, _, name = row.partition(b"\t")
        mode, _, id = about.decode().split(" ")
        found[name.decode()] = (mode, id)
    return found


def differences(path: Path, pairs: list[tuple[str, str]]) -> list[dict[str, str]]:
    """`git diff-tree -r` of pairs of commits: path -> A, M, T or D."""
    found = []
    for old, new in pairs:
        words = git(path, "diff-tree", "-r", "-z", "--no-renames", "--name-status", old, new).split(b"\0")[
            :-1
        ]
        found.append(
            {name.decode(): status.decode() for status, name in zip(words[::2], words[1::2], strict=True)}
        )
    return found
