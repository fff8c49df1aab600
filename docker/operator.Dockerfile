# The operator: kopf, aiohttp, pydantic; no torch.
#   docker build -f docker/operator.Dockerfile -t semires-operator:0.1.0 .
# BASE has Python 3.11 to 3.14 with venv, and certificates; the finished image has the same one.
ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS build
COPY requirements/operator.txt requirements/dev.txt docker/install /build/
RUN /build/install environment /build/operator.txt
COPY LICENSE README.md pyproject.toml /build/source/
COPY operator /build/source/operator
COPY trainer /build/source/trainer
RUN /build/install project /build/source

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="semires-operator" \
      org.opencontainers.image.description="Kubernetes operator that trains SemiRES from one manifest" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN echo "semires:x:10001:10001::/home/semires:/usr/sbin/nologin" >> /etc/passwd && echo "semires:x:10001:" >> /etc/group
COPY --from=build /opt/semires /opt/semires
ENV PATH=/opt/semires/bin:${PATH} PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /
EXPOSE 8080
ENTRYPOINT ["python", "-m", "semires_operator"]
