"""The fingerprint of `batch/sql/`: `feature_set.SQL_DIGEST` repeats it for the feed, which carries no SQL."""

import hashlib
from importlib import resources


def sql_digest() -> str:
    """16 hex digits that change with any statement."""
    files = sorted(resources.files("batch").joinpath("sql").iterdir(), key=lambda file: file.name)
    text = "".join(f"{file.name}\n{file.read_text(encoding='utf-8')}" for file in files if file.name.endswith(".sql"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


if __name__ == "__main__":
    import re
    import sys
    from pathlib import Path

    # `make digest`: after a change of the SQL, so that models and snapshots of the old one are refused.
    path = Path(sys.argv[1])
    path.write_text(re.sub(r'SQL_DIGEST: Final = "\w+"', f'SQL_DIGEST: Final = "{sql_digest()}"', path.read_text()))
