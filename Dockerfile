# syntax=docker/dockerfile:1
# Targets: `service` (the default) serves the built-in family; `training` runs `anysize-train`.
#   docker build -t anysize .
#   docker build -t anysize-training --target training .

FROM python:3.11-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
ENV VIRTUAL_ENV=/opt/anysize PATH=/opt/anysize/bin:$PATH ANYSIZE_CACHE=/var/lib/anysize
RUN python -m venv $VIRTUAL_ENV
WORKDIR /src
# An index with CPU builds of torch; give another one for a GPU.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY deploy/constraints.txt deploy/constraints.txt
RUN pip install --extra-index-url "$TORCH_INDEX" -c deploy/constraints.txt torch
COPY pyproject.toml README.md LICENSE ./
COPY service service
COPY training training

FROM base AS service-build
RUN pip install -c deploy/constraints.txt . && anysize fetch

FROM base AS training-build
RUN pip install -c deploy/constraints.txt '.[training]' && anysize fetch

FROM python:3.11-slim-bookworm AS runtime
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
ENV PATH=/opt/anysize/bin:$PATH ANYSIZE_CACHE=/var/lib/anysize HF_HOME=/tmp/huggingface MPLCONFIGDIR=/tmp/matplotlib
RUN useradd --system --uid 10001 --home-dir /nonexistent anysize
WORKDIR /tmp
USER 10001

FROM runtime AS training
COPY --from=training-build /opt/anysize /opt/anysize
COPY --from=training-build /var/lib/anysize /var/lib/anysize
ENTRYPOINT ["anysize-train"]
CMD ["--help"]

FROM runtime AS service
COPY --from=service-build /opt/anysize /opt/anysize
COPY --from=service-build /var/lib/anysize /var/lib/anysize
ENV ANYSIZE_HOST=0.0.0.0
EXPOSE 8000
HEALTHCHECK --start-period=60s --interval=10s --timeout=3s --retries=3 \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=2)"]
ENTRYPOINT ["anysize"]
CMD ["serve"]
