# The service as an image; `docker compose` starts one container of it per process.
FROM python:3.13-slim AS packages
COPY requirements.lock /
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir --require-hashes -r /requirements.lock

FROM python:3.13-slim
# A new volume mounted at /blobs or /audit takes over the owner of the directory it covers.
RUN useradd --system --uid 10001 --no-create-home --shell /bin/false rewrap \
    && install --directory --owner=rewrap --group=rewrap --mode=0750 /blobs /audit
COPY --from=packages /venv /venv
WORKDIR /app
COPY pyproject.toml ./
COPY alembic alembic
COPY keywrap keywrap
COPY ledger ledger
COPY tasks tasks
COPY workers workers
COPY scheduler scheduler
COPY embedded embedded
# -P: no directory that a command is called from comes before the rooms.
RUN printf '#!/bin/sh\nexec /venv/bin/python -P -m scheduler "$@"\n' > /usr/local/bin/rewrap \
    && chmod 755 /usr/local/bin/rewrap \
    && /venv/bin/python -m compileall -q /app
ENV PATH=/venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001
ENTRYPOINT ["rewrap"]
CMD ["--help"]
