# syntax=docker/dockerfile:1
# inferometer as a container: non-root, fit for a read-only root, kernels compiled when it is built.
#
#   docker build -t inferometer .
#   docker run --read-only --tmpfs /tmp -p 9464:9464 \
#     -v ./inferometer.yaml:/etc/inferometer/inferometer.yaml:ro inferometer
#
# Compiled kernels are read where they are: the agent itself writes nothing with a read-only root.

ARG PYTHON_VERSION=3.11

# The CPU that kernels are compiled for is fixed, so that what is built here runs there without compiling
# again. x86-64-v3 has AVX2, FMA and BMI2: server CPUs since 2013 (Haswell) and 2015 (Excavator). For an
# older one: --build-arg CPU_NAME=x86-64-v2. Features follow from the name, hence the empty list.
FROM python:${PYTHON_VERSION}-slim AS target-amd64
ARG CPU_NAME=x86-64-v3
ENV NUMBA_CPU_NAME=${CPU_NAME} NUMBA_CPU_FEATURES=""

FROM python:${PYTHON_VERSION}-slim AS target-arm64
ARG CPU_NAME=generic
ENV NUMBA_CPU_NAME=${CPU_NAME} NUMBA_CPU_FEATURES=""

FROM target-${TARGETARCH} AS target
# The cache's name and keys hold this path, the CPU and the kernels' sources: the same here and at run time.
ENV INFEROMETER_KERNEL_CACHE=/opt/inferometer/kernels

FROM target AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements-build.lock requirements.lock ./
RUN python -m venv /opt/build \
    && /opt/build/bin/pip install --require-hashes --only-binary :all: -r requirements-build.lock
# Without pip of its own: nothing can be installed into it later.
RUN python -m venv --without-pip /opt/inferometer \
    && /opt/build/bin/pip --python /opt/inferometer/bin/python install --no-compile \
       --require-hashes --only-binary :all: -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY agent ./agent
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /opt/build/dist . \
    && /opt/build/bin/pip --python /opt/inferometer/bin/python install --no-compile --no-deps /opt/build/dist/*.whl
# numba compares a source's time to fractions of a second, and image layers keep whole seconds: without
# whole times the cache would be stale as soon as the image is pulled.
RUN find /opt/inferometer/lib -name "*.py" -exec touch -d @1767225600 {} + \
    && /opt/inferometer/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/inferometer/lib
RUN /opt/inferometer/bin/inferometer warmup && chmod -R a+rX /opt/inferometer

FROM target AS runtime
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="inferometer" \
      org.opencontainers.image.description="Streaming inference-telemetry agent: Kafka in, sketches, OpenTelemetry out" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/inferometer /opt/inferometer
COPY deploy/inferometer.yaml /etc/inferometer/inferometer.yaml
ENV PATH=/opt/inferometer/bin:/usr/local/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1
# A number, so that Kubernetes can tell that it is not root.
USER 65532:65532
EXPOSE 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["inferometer", "health", "-c", "/etc/inferometer/inferometer.yaml"]
ENTRYPOINT ["inferometer"]
CMD ["run", "-c", "/etc/inferometer/inferometer.yaml"]
