# One image per deployable: docker build --target ingest|feed|batch . (and lambda-batch, the tick on AWS Lambda)
#
# A builder installs the hashed lock and the deployable's packages into /venv; the image is Python plus that folder. It
# runs as user 10001 and writes only to /var/lib/pingfeed (PINGFEED_HOME: the spool) and /tmp, so the root file system
# can be read-only. The process is PID 1 and drains on SIGTERM (docs/containers.md).
ARG PYTHON=python:3.13-slim

FROM ${PYTHON} AS builder
ENV PIP_CACHE_DIR=/var/cache/pip PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY locks/build.txt locks/
RUN --mount=type=cache,target=/var/cache/pip \
    pip install --quiet --require-hashes --requirement locks/build.txt && python -m venv --without-pip /venv

# Each builder installs the lock first, so that a code change does not reinstall it. `--no-deps`: a lock is complete (the
# feed's leaves SciPy out on purpose, see `lock` in the Makefile). Bytecode is compiled once and never checked against
# the sources again, because the file system is read-only.
FROM builder AS ingest-builder
COPY locks/ingest.txt locks/
RUN --mount=type=cache,target=/var/cache/pip \
    pip --python /venv install --quiet --no-deps --require-hashes --requirement locks/ingest.txt
COPY pyproject.toml README.md LICENSE ./
COPY pingfeed pingfeed
COPY ingest_api ingest_api
RUN pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /wheel . \
 && pip --python /venv install --quiet --no-deps /wheel/*.whl \
 && python -m compileall -q --invalidation-mode unchecked-hash /venv/lib

FROM builder AS feed-builder
COPY locks/feed.txt locks/
RUN --mount=type=cache,target=/var/cache/pip \
    pip --python /venv install --quiet --no-deps --require-hashes --requirement locks/feed.txt
COPY pyproject.toml README.md LICENSE ./
COPY pingfeed pingfeed
COPY feed_api feed_api
RUN pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /wheel . \
 && pip --python /venv install --quiet --no-deps /wheel/*.whl \
 && python -m compileall -q --invalidation-mode unchecked-hash /venv/lib

FROM builder AS batch-builder
COPY locks/batch.txt locks/
RUN --mount=type=cache,target=/var/cache/pip \
    pip --python /venv install --quiet --no-deps --require-hashes --requirement locks/batch.txt
COPY pyproject.toml README.md LICENSE ./
COPY pingfeed pingfeed
COPY batch batch
COPY deploy deploy
COPY simulator simulator
RUN pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /wheel . \
 && pip --python /venv install --quiet --no-deps /wheel/*.whl \
 && python -m compileall -q --invalidation-mode unchecked-hash /venv/lib

FROM ${PYTHON} AS runtime
RUN groupadd --gid 10001 pingfeed \
 && useradd --uid 10001 --gid pingfeed --home-dir /var/lib/pingfeed --no-create-home --shell /usr/sbin/nologin pingfeed \
 && install --directory --owner pingfeed --group pingfeed /var/lib/pingfeed
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PINGFEED_HOME=/var/lib/pingfeed
WORKDIR /var/lib/pingfeed
VOLUME /var/lib/pingfeed
ENTRYPOINT ["pingfeed"]

# LightGBM's shared library needs OpenMP.
FROM runtime AS runtime-lightgbm
RUN apt-get update -qq \
 && apt-get install --yes --quiet --no-install-recommends libgomp1 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/log/*

FROM runtime AS ingest
COPY --from=ingest-builder /venv /venv
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=5s --start-period=90s --retries=3 CMD ["python", "-m", "pingfeed.web.healthcheck", "8000"]
CMD ["serve", "ingest", "--host", "0.0.0.0"]

FROM runtime-lightgbm AS feed
COPY --from=feed-builder /venv /venv
USER 10001:10001
EXPOSE 8001
HEALTHCHECK --interval=5s --timeout=5s --start-period=90s --retries=3 CMD ["python", "-m", "pingfeed.web.healthcheck", "8001"]
CMD ["serve", "feed", "--host", "0.0.0.0"]

FROM runtime-lightgbm AS batch
COPY --from=batch-builder /venv /venv
USER 10001:10001
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=2 CMD ["python", "-m", "batch.jobs.healthcheck"]
CMD ["schedule"]

# The tick as a Lambda function (docs/aws.md). Everything is put together on the builder's own processor, from wheels for
# the target's, and the last stage only copies: an image for arm64 needs no emulator.
FROM --platform=$BUILDPLATFORM ${PYTHON} AS lambda-batch-builder
ARG TARGETARCH
WORKDIR /src
COPY pyproject.toml ./
COPY locks locks
COPY deploy deploy
COPY pingfeed pingfeed
COPY batch batch
ENV PIP_CACHE_DIR=/var/cache/pip
RUN --mount=type=cache,target=/var/cache/pip python -m deploy.package --architecture "${TARGETARCH:-amd64}" --tree batch /task

FROM ${PYTHON} AS lambda-batch
COPY --from=lambda-batch-builder /task /var/task
ENV PYTHONPATH=/var/task LD_LIBRARY_PATH=/var/task/lib PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    PINGFEED_HOME=/tmp/pingfeed
WORKDIR /var/task
USER 10001:10001
ENTRYPOINT ["python", "-m", "awslambdaric"]
CMD ["batch.lambda_handler.handler"]
