# depo-train in a container, on CPUs. This file was not run by the project.
#
#   docker build -t depo .
#   docker run -v "$PWD/runs:/work/runs" depo depo-train depo.toml --run.steps 20
#
# For a GPU, leave out UV_TORCH_BACKEND=cpu below and run with `--gpus all`.
FROM rust:1.88-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN python3 -m venv /tools && /tools/bin/pip install --no-cache-dir "maturin>=1.14,<2" \
    && /tools/bin/maturin build --release --out /dist

FROM python:3.11-slim-bookworm
ENV PYTHONUNBUFFERED=1 UV_TORCH_BACKEND=cpu
COPY --from=build /dist /dist
RUN pip install --no-cache-dir uv \
    && uv pip install --system --no-cache "$(ls /dist/*.whl)[train]"
RUN useradd --create-home depo && mkdir /work && chown depo /work
USER depo
WORKDIR /work
RUN depo init
CMD ["depo", "--help"]
