# slm-agent in a container: docker compose up starts it beside Mosquitto (compose.yaml).
# On a device the Debian package is smaller, and systemd's watchdog restarts what hangs.
ARG PYTHON=python:3.13-slim-bookworm
FROM ${PYTHON} AS build
COPY . /src
RUN python3 -m venv /opt/slm-agent \
    && /opt/slm-agent/bin/pip install --no-cache-dir --no-compile /src \
    && /opt/slm-agent/bin/python -m compileall -q /opt/slm-agent/lib

FROM ${PYTHON}
# ORT_DISABLE_TELEMETRY: onnxruntime's wheels report usage unless it is set.
ENV ORT_DISABLE_TELEMETRY=1 PYTHONUNBUFFERED=1 PYTHONFAULTHANDLER=1 MALLOC_ARENA_MAX=2 \
    PATH=/opt/slm-agent/bin:$PATH
RUN useradd --system --uid 10001 --user-group --home-dir /var/lib/slm-agent --create-home slm-agent \
    && mkdir /etc/slm-agent && mkdir -m 700 /run/slm-agent && chown slm-agent: /run/slm-agent
COPY --from=build /opt/slm-agent /opt/slm-agent
COPY packaging/agent.toml /etc/slm-agent/agent.toml
COPY pipelines /etc/slm-agent/pipelines
USER slm-agent
VOLUME /var/lib/slm-agent
# The root may be read-only. Kept over restarts: /var/lib/slm-agent.
ENV STATE_DIRECTORY=/var/lib/slm-agent RUNTIME_DIRECTORY=/run/slm-agent
# Healthy while the event loop answers; whether the broker is there, `doctor` tells.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9464/metrics', timeout=8)"]
# A stop waits for calls upstream: give it 60 s (compose.yaml does).
STOPSIGNAL SIGTERM
ENTRYPOINT ["slm-agent"]
CMD ["run", "--config", "/etc/slm-agent/agent.toml"]
