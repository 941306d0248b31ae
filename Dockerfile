# docker build --build-arg MORPHNET_COMMIT=$(git rev-parse HEAD) -t morphnet . && docker run --rm -v "$PWD/outputs:/runs/outputs" morphnet train
# With GPUs: docker run --gpus all ...
FROM python:3.12-slim
# torch.compile on a CPU needs a C++ compiler.
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN pip install --no-cache-dir '/src[sweep]' && rm -rf /src
# What records name as their commit.
ARG MORPHNET_COMMIT
ENV MORPHNET_COMMIT=$MORPHNET_COMMIT
WORKDIR /runs
ENTRYPOINT ["morphnet"]
CMD ["train"]
