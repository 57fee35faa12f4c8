"""Runs the SQL files of `batch/sql/`: portable statements over named inputs, on DuckDB.

A statement reads the tables that the caller names and the one-row table `params`; it has no other inputs, so the same
file runs on another engine that can register Arrow tables under names.
"""

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

import duckdb
import pyarrow as pa

Params = Mapping[str, int]


@cache
def statement(name: str) -> str:
    """The text of `batch/sql/<name>.sql`."""
    return resources.files("batch").joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")


class Engine:
    """One in-memory DuckDB connection; not for several threads at once."""

    def __init__(self, threads: int = 2) -> None:
        self._connection = duckdb.connect(config={"threads": threads, "preserve_insertion_order": True})

    def run(self, name: str, params: Params, **tables: Any) -> pa.Table:
        """The result of a statement over Arrow tables or datasets, as an Arrow table."""
        inputs = {"params": pa.table({key: pa.array([value], pa.int64()) for key, value in params.items()}), **tables}
        for table, content in inputs.items():
            self._connection.register(table, content)
        try:
            result: pa.Table = self._connection.sql(statement(name)).to_arrow_table()
            return result
        finally:
            for table in inputs:
                self._connection.unregister(table)

    def close(self) -> None:
        """Release the connection."""
        self._connection.close()


def sql_digest() -> str:
    """16 hex digits of all SQL files; `feature_set.SQL_DIGEST` repeats them for the feed, which has no SQL."""
    files = sorted(resources.files("batch").joinpath("sql").iterdir(), key=lambda file: file.name)
    text = "".join(f"{file.name}\n{file.read_text(encoding='utf-8')}" for file in files if file.name.endswith(".sql"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


if __name__ == "__main__":
    import re
    import sys
    from pathlib import Path

    # `make digest`, after a change of the SQL: models and snapshots with another digest are then rejected.
    path = Path(sys.argv[1])
    path.write_text(re.sub(r'SQL_DIGEST: Final = "\w+"', f'SQL_DIGEST: Final = "{sql_digest()}"', path.read_text()))
