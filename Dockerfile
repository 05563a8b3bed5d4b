# syntax=docker/dockerfile:1
# Targets: `service` (the default) serves the built-in family on a CPU, `service-cuda` on an NVIDIA GPU, and `training`
# runs `anysize-train`.
#   docker build -t anysize .
#   docker build -t anysize-cuda --target service-cuda .
#   docker build -t anysize-training --target training .

ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# hadolint ignore=DL3006
FROM ${PYTHON_IMAGE} AS python
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
ENV VIRTUAL_ENV=/opt/anysize PATH=/opt/anysize/bin:$PATH ANYSIZE_CACHE=/var/lib/anysize

# What is built here is copied out of it; pip, sources and caches stay behind.
FROM python AS base
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY deploy/constraints.txt deploy/constraints.txt
RUN python -m venv $VIRTUAL_ENV && pip install -c deploy/constraints.txt --upgrade pip

FROM base AS cpu
# An index with CPU builds of torch. Empty, it leaves torch to pip's own index, whose build for Linux brings CUDA.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install -c deploy/constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch
COPY pyproject.toml README.md LICENSE ./
COPY service service
COPY training training

FROM base AS cuda
RUN pip install -c deploy/constraints.txt torch
COPY pyproject.toml README.md LICENSE ./
COPY service service
COPY training training

# The model is fetched at build, so that a container starts without a network.
FROM cpu AS service-build
RUN pip install -c deploy/constraints.txt '.[tracing]' && anysize fetch

FROM cuda AS service-cuda-build
RUN pip install -c deploy/constraints.txt '.[tracing]' && anysize fetch

FROM cpu AS training-build
RUN pip install -c deploy/constraints.txt '.[training]' && anysize fetch

# /tmp is the one place that has to be writable, in memory. /runs and /var/lib/anysize/kernels are for volumes: a new one
# takes over the owner of the folder that it is mounted on.
FROM python AS runtime
ENV HF_HOME=/tmp/huggingface MPLCONFIGDIR=/tmp/matplotlib
RUN useradd --system --uid 10001 --user-group --home-dir /nonexistent anysize \
  && install -d -o anysize -g anysize /runs /var/lib/anysize/kernels
WORKDIR /tmp

FROM runtime AS training
COPY --from=training-build /opt/anysize /opt/anysize
COPY --from=training-build /var/lib/anysize /var/lib/anysize
WORKDIR /runs
USER 10001:10001
ENTRYPOINT ["anysize-train"]
CMD ["--help"]

FROM runtime AS service-cuda
COPY --from=service-cuda-build /opt/anysize /opt/anysize
COPY --from=service-cuda-build /var/lib/anysize /var/lib/anysize
ENV ANYSIZE_HOST=0.0.0.0 ANYSIZE_DEVICE=cuda
# What NVIDIA's container runtime lets in.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --start-period=120s --interval=10s --timeout=3s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ.get('ANYSIZE_PORT', 8000)}/health\", timeout=2)"]
ENTRYPOINT ["anysize"]
CMD ["serve"]

FROM runtime AS service
# The kernels are compiled for the processor that they run on, at the first start, into /var/lib/anysize/kernels.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY --from=service-build /opt/anysize /opt/anysize
COPY --from=service-build /var/lib/anysize /var/lib/anysize
ENV ANYSIZE_HOST=0.0.0.0
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --start-period=60s --interval=10s --timeout=3s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ.get('ANYSIZE_PORT', 8000)}/health\", timeout=2)"]
ENTRYPOINT ["anysize"]
CMD ["serve"]
