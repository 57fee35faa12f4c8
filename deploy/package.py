"""`python -m deploy.package`: what runs on AWS Lambda, from the hashed locks, for either architecture.

    build/ingest.zip, build/feed.zip    the functions of the services
    --tree batch FOLDER                 the tick's files, which the image `lambda-batch` copies (Dockerfile)

Nothing is compiled here: wheels are downloaded for the target, so any machine packages for both architectures. The same
input gives the same bytes. LightGBM's library needs OpenMP, which Lambda's Python lacks and Debian builds for a newer
glibc: `lib/libgomp.so.1` comes out of a manylinux wheel, and `/var/task/lib` is on Lambda's library path.
"""

import argparse
import importlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
PYTHON: Final = "3.13"
GLIBC: Final = (2, 34)
"""Of Amazon Linux 2023, on which Lambda's Python runs."""
MAX_BYTES: Final = 240_000_000
"""Lambda accepts 250 MB of unzipped files."""
MACHINES: Final = {"arm64": "aarch64", "aarch64": "aarch64", "x86_64": "x86_64", "amd64": "x86_64"}
_TASK: Final = "/var/task"
_UNUSED: Final = re.compile(r"(^|/)(tests?|bin|__pycache__)/|\.(pyi|pyx|pxd|c|h|a)$|\.dist-info/(RECORD|REQUESTED)$")
_SERVICES: Final = re.compile(r"^botocore/data/(?!(dynamodb|firehose|s3|sts|sso|sso-oidc)/)[^/]+/")
"""Botocore describes 400 services; these are called."""


_UNIMPORTED: Final = frozenset({"uvloop", "rich", "pygments", "markdown-it-py", "mdurl"})
"""For servers and terminals."""


@dataclass(frozen=True)
class Function:
    """The locks and folders of one function, and the distributions of its locks that it does not import."""

    locks: tuple[str, ...]
    packages: tuple[str, ...]
    left_out: frozenset[str] = frozenset()


FUNCTIONS: Final = {
    "ingest": Function(("ingest",), ("pingfeed", "ingest_api"), _UNIMPORTED | {"pyarrow"}),
    "feed": Function(("feed",), ("pingfeed", "feed_api"), _UNIMPORTED | {"narwhals"}),
    "batch": Function(("batch", "lambda"), ("pingfeed", "batch")),
}
_WITH_LIGHTGBM: Final = ("feed", "batch")


class PackagingError(Exception):
    """Packaging failed; the message is a sentence for the user."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.package", description="Build the Lambda functions.")
    parser.add_argument("--architecture", choices=sorted(MACHINES), default="arm64")
    parser.add_argument("--out", type=Path, default=ROOT / "build", help="folder of the zips")
    parser.add_argument("--tree", nargs=2, metavar=("FUNCTION", "FOLDER"), help="only these files, not zipped")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.tree:
            build(chosen.tree[0], chosen.architecture, Path(chosen.tree[1]))
        else:
            zips(chosen.architecture, chosen.out)
    except PackagingError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def zips(architecture: str, out: Path, names: Sequence[str] = ("ingest", "feed")) -> list[Path]:
    """Build zips into the folder `out`; their paths. PackagingError."""
    out.mkdir(parents=True, exist_ok=True)
    made = []
    for name in names:
        with tempfile.TemporaryDirectory(dir=out, prefix=f".{name}-") as folder:
            size = build(name, architecture, Path(folder))
            if size > MAX_BYTES:
                raise PackagingError(
                    f"{name} has {size / 1e6:.0f} MB unzipped; Lambda accepts 250, we {MAX_BYTES / 1e6:.0f}"
                )
            made.append(_zip(Path(folder), out / f"{name}.zip"))
        _say(f"{made[-1]}: {made[-1].stat().st_size / 1e6:.1f} MB, unzipped {size / 1e6:.0f} MB")
    return made


def build(name: str, architecture: str, folder: Path) -> int:
    """Put a function's files into an empty folder; their size in bytes. PackagingError."""
    function, machine = FUNCTIONS[name], MACHINES[architecture]
    folder.mkdir(parents=True, exist_ok=True)
    for lock in function.locks:
        _say(f"{name}: installing locks/{lock}.txt for {architecture}, Python {PYTHON} ...")
        wanted = requirements((ROOT / "locks" / f"{lock}.txt").read_text(), machine, function.left_out)
        _pip(["install", "--target", str(folder), "--upgrade", "--no-compile"], wanted, machine)
    if name in _WITH_LIGHTGBM:
        _add_libgomp(folder, machine)
    for package in function.packages:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    _describe_project(folder)
    for path in _files(folder):
        inside = path.relative_to(folder).as_posix()
        if _UNUSED.search(inside) or _SERVICES.match(inside):
            path.unlink()
    _compile(folder)
    return sum(path.stat().st_size for path in _files(folder))


def requirements(lock: str, machine: str, left_out: frozenset[str] = frozenset()) -> str:
    """The lock's requirements that apply on Lambda, without their markers, which pip evaluates for its own Python."""
    # Pip has no other use for its copy, and a builder image has nothing but pip.
    marker = importlib.import_module("pip._vendor.packaging.markers").Marker
    target = {"python_version": PYTHON, "python_full_version": f"{PYTHON}.0", "platform_machine": machine}
    target |= {
        "sys_platform": "linux",
        "os_name": "posix",
        "platform_system": "Linux",
        "implementation_name": "cpython",
    }
    target |= {"platform_python_implementation": "CPython"}
    kept = []
    for entry in re.split(r"^(?=[A-Za-z0-9])", lock, flags=re.MULTILINE):
        head, _, hashes = entry.partition("\n")
        requirement, _, condition = head.rstrip(" \\").partition(" ; ")
        name = requirement.partition("==")[0]
        if name and name not in left_out and (not condition or marker(condition).evaluate(target)):
            kept.append(f"{requirement} \\\n{hashes}")
    return "".join(kept)


def _pip(words: list[str], wanted: str, machine: str) -> None:
    """Run pip for the target; the wheels' hashes are checked."""
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(GLIBC[1], 16, -1)] + [f"manylinux2014_{machine}"]
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder, "requirements.txt")
        listed.write_text(wanted)
        command = [sys.executable, "-m", "pip", *words, "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--require-hashes", "--only-binary=:all:", "--implementation", "cp", "--python-version", PYTHON]
        command += ["--ignore-requires-python"]  # Pip compares with its own Python.
        command += [word for tag in tags for word in ("--platform", tag)]
        done = _run([*command, "-r", str(listed)], PIP_ROOT_USER_ACTION="ignore")
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
        raise PackagingError(f"Packages could not be downloaded; is a package index reachable? {errors[0]}")


def _add_libgomp(folder: Path, machine: str) -> None:
    """`lib/libgomp.so.1`, from the wheel that locks/libgomp.txt pins."""
    with tempfile.TemporaryDirectory() as wheels:
        wanted = requirements((ROOT / "locks" / "libgomp.txt").read_text(), machine)
        _pip(["download", "--dest", wheels], wanted, machine)
        (wheel,) = Path(wheels).glob("*.whl")
        with zipfile.ZipFile(wheel) as opened:
            (name,) = (name for name in opened.namelist() if re.search(r"\.libs/libgomp-[^/]*$", name))
            library = opened.read(name)
    (folder / "lib").mkdir()
    (folder / "lib" / "libgomp.so.1").write_bytes(library)


def _describe_project(folder: Path) -> None:
    """The project's own metadata, which the services' OpenAPI documents take their version from."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    about = folder / f"pingfeed-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: pingfeed\nVersion: {version}\n")


def _compile(folder: Path) -> None:
    """Bytecode for every module, never checked against its source: on Lambda it could not be written."""
    found = _compiler(folder)
    if found is None:
        _say(f"No bytecode: neither Python {PYTHON} nor Docker was found. Cold starts will take about twice as long.")
        return
    words, seen_as = found
    compiled = ["-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash", "-s", seen_as, "-p", _TASK]
    # A few templates are no valid Python, which compileall reports by its exit code.
    _run([*words, *compiled, seen_as], PYTHONHASHSEED="0")


def _compiler(folder: Path) -> tuple[list[str], str] | None:
    """A command that runs the target's Python, and where it sees the folder."""
    for python in (sys.executable, shutil.which(f"python{PYTHON}")):
        if python and _output([python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]) == PYTHON:
            return [python], str(folder)
    user = f"{os.getuid()}:{os.getgid()}"
    container = ["docker", "run", "--rm", "--network=none", f"--user={user}", "--env=PYTHONHASHSEED=0"]
    container += [f"--volume={folder.resolve()}:/tree", f"python:{PYTHON}-slim", "python"]
    if shutil.which("docker") and _output([*container, "-c", "print(1)"]) == "1":
        return container, "/tree"
    return None


def _output(command: list[str]) -> str:
    return _run(command).stdout.strip()


def _run(command: list[str], **environ: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(  # noqa: S603  # a Python or Docker, our own arguments
        command, capture_output=True, text=True, check=False, env=os.environ | environ
    )


def _zip(folder: Path, path: Path) -> Path:
    """Zip the folder: sorted, with one date and one mode."""
    part = path.with_suffix(".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as made:
        for file in _files(folder):
            entry = zipfile.ZipInfo(file.relative_to(folder).as_posix())
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o100755 << 16
            made.writestr(entry, file.read_bytes())
    part.replace(path)
    return path


def _files(folder: Path) -> Iterator[Path]:
    yield from sorted(path for path in folder.rglob("*") if path.is_file())


def _say(sentence: str) -> None:
    sys.stderr.write(f"{sentence}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
