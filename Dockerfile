# One image for every process; the command says which. Build with --build-arg EXTRAS= for labelling
# without torch (web, worker-default, beat), or leave it for workers that train.
FROM python:3.11-slim

ARG EXTRAS=train
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 TASTEMAKER_DATA=/data HF_HOME=/data/hub PRODUCTION=1
WORKDIR /app

COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY config config
COPY labeling labeling
COPY training training
RUN pip install --no-cache-dir --constraint requirements.lock ".${EXTRAS:+[$EXTRAS]}" \
    && useradd --system --uid 10001 tastemaker \
    && install --directory --owner tastemaker /data
COPY manage.py ./
COPY templates templates
COPY static static
COPY locale locale

USER tastemaker
VOLUME /data
EXPOSE 8000
CMD ["gunicorn", "config.wsgi", "--bind", "0.0.0.0:8000", "--workers", "2", "--threads", "8", "--worker-class", "gthread", "--timeout", "120", "--no-control-socket"]
