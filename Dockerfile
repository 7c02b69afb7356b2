# Whisperloop's images, one target each; docs/deploying.md says how they are built, run and measured.
#
#     docker build --target service --tag whisperloop/service .
#
#     service        HTTP on CPUs: neither torch nor transformers
#     service-cuda   the same with torch and its CUDA libraries, for an NVIDIA GPU
#     trainer        the training command line, on a GPU or without
#     postgres       Debian's PostgreSQL
#     prometheus     Debian's Prometheus, with the alerts of docker/prometheus/
#
# All of them stand on one image: any Debian (bookworm: Python 3.11). Needs BuildKit, which current Docker has on and
# Docker 20.10 switches on with DOCKER_BUILDKIT=1.
#
# A package index of one's own, or a proxy with a certificate of its own, comes in as build secrets, which no layer keeps:
#     --secret id=pip,src=pip.conf    read as /etc/pip.conf
#     --secret id=ca,src=ca.crt       certificates to trust, which pip.conf names as cert = /run/secrets/ca
ARG BASE_IMAGE=debian:bookworm-slim

# --- What every image has: a user whose number does not change, so that volumes stay its own. ---
FROM ${BASE_IMAGE} AS base
ENV DEBIAN_FRONTEND=noninteractive LANG=C.UTF-8
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && apt-get clean && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 whisperloop \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin whisperloop \
    && install --directory --owner=10001 --group=10001 /data

# --- Python alone: what runs needs no pip, and nothing that builds. ---
FROM base AS python
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && apt-get clean && rm -rf /var/lib/apt/lists/*
ENV PATH=/opt/whisperloop/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

# --- Where environments are made; only their folder is copied from here. ---
FROM python AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-pip python3-venv \
    && apt-get clean && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv --without-pip /opt/whisperloop
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_PYTHON=/opt/whisperloop/bin/python PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
# The libraries come before the source, in a layer that a change of ours leaves alone: the project is installed empty.
COPY pyproject.toml requirements.txt LICENSE README.md ./

FROM build AS build-service
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca \
    /usr/bin/python3 -m pip install --quiet --constraint requirements.txt ".[service,console,telemetry,postgres]"
COPY . .
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca \
    /usr/bin/python3 -m pip install --quiet --no-deps --force-reinstall .

FROM build AS build-cuda
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca \
    /usr/bin/python3 -m pip install --quiet --constraint requirements.txt ".[service,console,telemetry,postgres,gpu]"
COPY . .
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca \
    /usr/bin/python3 -m pip install --quiet --no-deps --force-reinstall .

FROM build AS build-trainer
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca \
    /usr/bin/python3 -m pip install --quiet --constraint requirements.txt ".[training,postgres]"
COPY . .
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca \
    /usr/bin/python3 -m pip install --quiet --no-deps --force-reinstall .

# --- The service. ---
FROM python AS serving
# The trainer's reports are read from its volume, which is made by whichever of both starts first.
RUN install --directory --owner=10001 --group=10001 /data/registry /data/service /data/training
COPY --chmod=0755 docker/service-entrypoint /usr/local/bin/
ENV WHISPERLOOP_HOST=0.0.0.0 \
    WHISPERLOOP_REGISTRY=/data/registry \
    WHISPERLOOP_DATABASE=sqlite:////data/service/jobs.db \
    WHISPERLOOP_CACHE=/data/service/cache \
    WHISPERLOOP_CONSOLE_REPORTS=/data/training/runs/retrain \
    HF_HOME=/data/service/huggingface
WORKDIR /data/service
USER 10001:10001
EXPOSE 8000
# The first start may fetch and convert a base: until then it is starting, and not unhealthy.
HEALTHCHECK --interval=10s --timeout=5s --start-period=15m --retries=3 CMD ["python", "-c", \
    "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ.get('WHISPERLOOP_PORT', '8000') + '/health/ready', timeout=4)"]
ENTRYPOINT ["service-entrypoint"]

FROM serving AS service-cuda
COPY --from=build-cuda /opt/whisperloop /opt/whisperloop
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

# --- The trainer: `docker run whisperloop/trainer retrain --config …`. ---
FROM python AS trainer
RUN install --directory --owner=10001 --group=10001 /data/registry /data/training
COPY --from=build-trainer /opt/whisperloop /opt/whisperloop
ENV WHISPERLOOP_REGISTRY=/data/registry HF_HOME=/data/training/huggingface \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /data/training
USER 10001:10001
ENTRYPOINT ["python", "-m", "training"]
CMD ["--help"]

# --- PostgreSQL, of Debian's package. ---
FROM base AS postgres
# Debian would make a cluster while it installs; ours is made at the first start, on the volume.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends postgresql-common \
    && sed -i 's/^#\?create_main_cluster.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf \
    && apt-get install --yes --no-install-recommends postgresql \
    && apt-get clean && rm -rf /var/lib/apt/lists/* \
    && install --directory --owner=10001 --group=10001 --mode=700 /data/postgres \
    && install --directory --owner=10001 --group=10001 /run/postgresql
COPY --chmod=0755 docker/postgres/postgres-entrypoint /usr/local/bin/
ENV PGDATA=/data/postgres/cluster
USER 10001:10001
EXPOSE 5432
# On TCP: the server that is there while the cluster is made listens to its socket only.
HEALTHCHECK --interval=5s --timeout=5s --start-period=1m --retries=3 CMD ["pg_isready", "--host=127.0.0.1", "--quiet"]
# A fast shutdown: open connections are closed, and the next start need not recover.
STOPSIGNAL SIGINT
ENTRYPOINT ["postgres-entrypoint"]

# --- Prometheus, of Debian's package. ---
FROM base AS prometheus
RUN apt-get update \
    && apt-get install --yes --no-install-recommends prometheus \
    && apt-get clean && rm -rf /var/lib/apt/lists/* \
    && install --directory --owner=10001 --group=10001 /data/prometheus /run/whisperloop
COPY docker/prometheus/*.yml /etc/whisperloop/
COPY --chmod=0755 docker/prometheus/prometheus-entrypoint /usr/local/bin/
# As a checkout is that others of its machine may not read.
RUN chmod --recursive a+rX /etc/whisperloop
USER 10001:10001
EXPOSE 9090
HEALTHCHECK --interval=10s --timeout=5s --start-period=1m --retries=3 CMD ["promtool", "query", "instant", \
    "http://127.0.0.1:9090", "vector(1)"]
ENTRYPOINT ["prometheus-entrypoint", "--config.file=/etc/whisperloop/prometheus.yml", "--storage.tsdb.path=/data/prometheus"]
CMD ["--storage.tsdb.retention.time=30d"]

# --- The last stage is what `docker build .` makes. ---
FROM serving AS service
COPY --from=build-service /opt/whisperloop /opt/whisperloop
