# The image that runs programs: `streams` and what it needs to run, nothing to build or test with.
#
#   docker build -t streams .
#   docker run --rm --read-only --tmpfs /tmp -v streams-state:/data streams run fraud.pipeline:app --brokers kafka:9092
#
# A program of your own: FROM streams, COPY program.py /app/, CMD ["run", "program:app"].
# The root file system is never written to: state and the embedded log lie in /data, temporary files in /tmp.

FROM python:3.13-slim-trixie AS build
WORKDIR /build
RUN python -m venv /opt/streams
# The dependencies first, by themselves: they change seldom, so that this layer is kept.
COPY requirements-run.lock ./
RUN /opt/streams/bin/python -m pip install --disable-pip-version-check --no-cache-dir --only-binary :all: --require-hashes --requirement requirements-run.lock
COPY pyproject.toml README.md LICENSE ./
COPY streams/ streams/
COPY operators/ operators/
COPY fraud/ fraud/
RUN /opt/streams/bin/python -m pip install --disable-pip-version-check --no-cache-dir --no-deps --no-build-isolation .
# A dependency that the lock lacks ends the build here, not a worker later.
RUN /opt/streams/bin/python -m pip check

FROM python:3.13-slim-trixie
# A volume that is mounted here for the first time takes over the owner.
RUN groupadd --system --gid 10001 streams \
    && useradd --system --uid 10001 --gid streams --no-create-home --home-dir /data --shell /usr/sbin/nologin streams \
    && install --directory --owner streams --group streams --mode 0750 /data /checkpoints
COPY --from=build /opt/streams /opt/streams
ENV PATH=/opt/streams/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    STREAMS_STATE_DIR=/data/state \
    STREAMS_LOG_DIR=/data/log \
    STREAMS_HTTP=0.0.0.0:9400
WORKDIR /app
USER 10001:10001
VOLUME ["/data"]
EXPOSE 9400
STOPSIGNAL SIGTERM
# Of a worker; switch it off for commands that end by themselves.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9400/metrics', timeout=4).read()"]
ENTRYPOINT ["streams"]
CMD ["--help"]
