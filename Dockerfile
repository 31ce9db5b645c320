# The image that cluster/*.yaml names. Build for a GPU with
#   docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 -t hyfree-ray:0.1.0 .
FROM python:3.11-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# Ray's health checks want wget; nnU-Net and SimpleITK bring their own libraries.
RUN apt-get update && apt-get install --yes --no-install-recommends wget g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/hyfree-ray
COPY constraints.txt pyproject.toml LICENSE README.md ./
COPY hyfree_ray hyfree_ray
RUN pip install --no-cache-dir --extra-index-url "$TORCH_INDEX" --constraint constraints.txt .

RUN useradd --create-home --uid 1000 hyfree && mkdir /store && chown hyfree /store
USER hyfree
WORKDIR /home/hyfree
ENV HYFREE_STORE=/store
ENTRYPOINT ["hyfree-ray"]
CMD ["--help"]
