# One image for the four services; the command says which: `serve gateway|intake|locator|exporter`, `migrate`.
ARG BASE=python:3.12-slim
FROM ${BASE}

ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/habeas habeas \
    && install --directory --owner=habeas --mode=700 /var/lib/habeas/vault
WORKDIR /opt/habeas

COPY requirements.txt requirements-build.txt ./
RUN pip install --no-cache-dir --require-hashes -r requirements-build.txt -r requirements.txt

COPY pyproject.toml README.md LICENSE ./
COPY shared shared
COPY services services
COPY gateway gateway
COPY habeas habeas
RUN pip install --no-cache-dir --no-build-isolation --no-deps .

USER 10001
WORKDIR /var/lib/habeas
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["habeas", "health"]
ENTRYPOINT ["habeas"]
CMD ["--help"]
