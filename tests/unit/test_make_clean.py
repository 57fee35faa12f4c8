"""`make clean` removes what `make` made, and no home but the demo's."""

import shutil
import subprocess
from pathlib import Path

MAKEFILE = Path(__file__).parents[2] / "Makefile"


def test_make_clean_touches_no_home_but_the_demos(tmp_path: Path) -> None:
    shutil.copy(MAKEFILE, tmp_path)
    homes = [tmp_path / "var" / name / "lake" / "events" for name in ("pingfeed", "demo", "staging")]
    pointer = tmp_path / "var" / "current-home"
    for home in (*homes, tmp_path / ".venv"):
        home.mkdir(parents=True)
    pointer.write_text(str(tmp_path / "var" / "staging"))
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    assert [home.exists() for home in homes] == [True, False, True]
    assert not pointer.exists()
