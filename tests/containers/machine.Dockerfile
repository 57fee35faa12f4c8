# A Debian machine with Caddy, and two versions of this tree installed as docs/one-machine.md says; nothing runs in it.
FROM python:3.13-slim
RUN apt-get update -qq \
 && apt-get install --yes --quiet --no-install-recommends caddy libgomp1 systemd \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/log/*
ENV PIP_CACHE_DIR=/var/cache/pip PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
# The dependencies take a minute, so both versions share one copy, and code comes later: `install` finds them there.
ARG VERSION
ARG NEXT
COPY locks/machine.txt locks/
RUN --mount=type=cache,target=/var/cache/pip python3 -m venv /opt/pingfeed/$VERSION \
 && /opt/pingfeed/$VERSION/bin/python -m pip install --quiet --require-hashes --requirement locks/machine.txt \
 && cp -al /opt/pingfeed/$VERSION /opt/pingfeed/$NEXT
COPY . .
RUN for version in $VERSION $NEXT; do \
      sed -i "s/^version = .*/version = \"$version\"/" pyproject.toml && rm -rf build dist \
      && /opt/pingfeed/$version/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist . \
      && deploy/one-machine/install dist/*.whl || exit 1; \
    done
