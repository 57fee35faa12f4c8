"""Runs the SQL files of `batch/sql/`: portable statements over named inputs, on DuckDB.

A statement reads the tables that the caller names and the one-row table `params`; it has no other inputs, so the same
file runs on another engine that can register Arrow tables under names.

`python -m batch.engine FILE` (`make digest`) writes the digest of the statements into that file.
"""

import hashlib
import re
import sys
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

Params = Mapping[str, int]


@cache
def statement(name: str) -> str:
    """The text of `batch/sql/<name>.sql`."""
    return resources.files("batch").joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")


def sql_digest() -> str:
    """16 hex digits that change with any statement. `feature_set.SQL_DIGEST` repeats it, since the feed has no SQL."""
    files = sorted(resources.files("batch").joinpath("sql").iterdir(), key=lambda file: file.name)
    text = "".join(f"{file.name}\n{file.read_text(encoding='utf-8')}" for file in files if file.name.endswith(".sql"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


class Engine:
    """One in-memory DuckDB connection; not for several threads at once."""

    def __init__(self, threads: int = 2) -> None:
        self._connection = duckdb.connect(config={"threads": threads, "preserve_insertion_order": True})
        # DuckDB draws the progress of long queries on standard output, where --json prints.
        self._connection.execute("SET enable_progress_bar = false")

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


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(re.sub(r'SQL_DIGEST: Final = "\w+"', f'SQL_DIGEST: Final = "{sql_digest()}"', target.read_text()))
