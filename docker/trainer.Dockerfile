# The trainer. Two targets:
#   full (default)  everything, torch with CUDA and a C compiler included: some 10 GB
#                   docker build -f docker/trainer.Dockerfile -t semires-trainer:0.1.0 .
#                   --build-arg TORCH_INDEX=URL takes torch from that index, such as PyTorch's own for another CUDA, or the CPU
#   thin            the code alone: the node brings an environment to /opt/semires, as it brings the GPU's driver (tests)
# BASE has Python 3.11 to 3.14 with venv, certificates and, for `full`, apt-get; the finished image has the same one.
ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS build
ARG TORCH_INDEX=""
COPY requirements/trainer.txt requirements/dev.txt docker/install /build/
RUN /build/install environment /build/trainer.txt "${TORCH_INDEX}"
COPY LICENSE README.md pyproject.toml /build/source/
COPY operator /build/source/operator
COPY trainer /build/source/trainer
RUN /build/install project /build/source

FROM ${BASE} AS common
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="semires-trainer" \
      org.opencontainers.image.description="Trains referring segmentation from few labels (SemiRES)" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN echo "semires:x:10001:10001::/home/semires:/usr/sbin/nologin" >> /etc/passwd && echo "semires:x:10001:" >> /etc/group \
    && mkdir -p /home/semires /var/cache/semires && chown 10001:10001 /home/semires /var/cache/semires
ENV PATH=/opt/semires/bin:${PATH} PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# Where GKE and others that don't use NVIDIA's container runtime mount the driver; elsewhere the folders don't exist.
ENV LD_LIBRARY_PATH=/usr/local/nvidia/lib:/usr/local/nvidia/lib64
WORKDIR /home/semires
# The operator's pods say what runs; the exec form, so that PID 1 gets SIGTERM.
CMD ["python", "-m", "semires_trainer.pod"]

FROM common AS thin
COPY trainer /usr/lib/semires
ENV PYTHONPATH=/usr/lib/semires
USER 10001:10001

FROM common AS full
# `training.compile: true` compiles C while it runs: Triton its launchers, Inductor its kernels for the CPU.
# Python's headers are in Docker's own images, not in a distribution's Python.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ gcc libc6-dev \
        $(test -e "$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" || echo python3-dev) \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/semires /opt/semires
USER 10001:10001
