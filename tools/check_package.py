"""Builds the wheel and the source distribution and looks into both.

    python tools/check_package.py [--test]      --test: also runs a few tests from the unpacked source distribution

The source distribution holds every file of the repository, the wheel every file of the package; each pattern of
package-data matches something; the metadata is valid; the text for the package index has no relative link, and only
code that the README has.
"""

import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from pathlib import Path

from packaging.metadata import Metadata

ROOT = Path(__file__).resolve().parent.parent
SMOKE = ["tests/test_tasks.py", "tests/test_architecture.py", "-k", "glyphs or import"]


def of_repository() -> set[str]:
    """What git holds or would add; without git, what is there."""
    list_files = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    found = subprocess.run(list_files, cwd=ROOT, capture_output=True, text=True)
    names = found.stdout.split() if found.returncode == 0 else [str(p.relative_to(ROOT)) for p in ROOT.rglob("*.py")]
    return {name for name in names if (ROOT / name).is_file()}


def check(folder: Path) -> None:
    build = [sys.executable, "-m", "build", "--outdir", folder, ROOT]
    done = subprocess.run(build, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise SystemExit(done.stdout)
    (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    files = of_repository()
    with tarfile.open(source) as archive:
        archive.extractall(folder, filter="data")
        inside = {name.partition("/")[2] for name in archive.getnames()}
    if missing := files - inside:
        raise SystemExit(f"{source.name} lacks {', '.join(sorted(missing))}")
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
        (metadata,) = (archive.read(name) for name in inside if name.endswith(".dist-info/METADATA"))
    if missing := {name for name in files if name.startswith("metaloop/")} - inside:
        raise SystemExit(f"{wheel.name} lacks {', '.join(sorted(missing))}")
    if strange := {name for name in inside if not name.startswith(("metaloop/", "metaloop-"))}:
        raise SystemExit(f"{wheel.name} has {', '.join(sorted(strange))}")
    text = Metadata.from_email(metadata, validate=True).description or ""
    if links := [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]:
        raise SystemExit(f"The text for the package index has relative links: {', '.join(links)}")
    snippet = "".join(re.findall(r"^```py\n(.*?)^```", text, re.M | re.S)).splitlines()
    if strange := [line for line in snippet if line not in (ROOT / "README.md").read_text().splitlines()]:
        raise SystemExit(f"The README, whose snippet is tested, lacks: {strange[0]}")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for pattern in project["tool"]["setuptools"]["package-data"]["metaloop"]:
        if not list((ROOT / "metaloop").glob(pattern)):
            raise SystemExit(f"package-data: {pattern} matches nothing")
    print(f"{wheel.name} {wheel.stat().st_size:,} bytes, {source.name} {source.stat().st_size:,} bytes: complete")


def smoke(folder: Path) -> None:
    (home,) = (path.parent for path in folder.glob("*/pyproject.toml"))
    subprocess.run([sys.executable, "-m", "pytest", "-q", *SMOKE], check=True, cwd=home)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        check(Path(folder))
        if "--test" in sys.argv:
            smoke(Path(folder))
