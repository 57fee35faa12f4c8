"""`python -m pingfeed.web.healthcheck PORT`: exit code 0 if this machine's service on that port is ready, else 1.

For a container's health check, every few seconds: it imports no other module of ours, uses no proxy, and prints why
a service is not ready.
"""

import http.client
import sys
from contextlib import closing
from typing import Final

TIMEOUT_S: Final = 4


def unready(port: int) -> str | None:
    """Why the service is not ready, in its own words; None if it is ready."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)) as connection:
        try:
            connection.request("GET", "/readyz")
            answer = connection.getresponse()
            body = answer.read(1000).decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            return f"port {port} does not respond: {error}"
    return None if answer.status == 200 else body


if __name__ == "__main__":
    sys.exit(unready(int(sys.argv[1])))
