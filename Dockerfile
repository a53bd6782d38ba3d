# The page in a container, on the CPU:
#   docker build -t svfit . && docker run -p 7860:7860 -v svfit:/data -e SVFIT_AUTH=me:secret svfit
# For CUDA: docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 -t svfit .
FROM python:3.12-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 \
    SVFIT_HOME=/data HF_HOME=/data/huggingface
WORKDIR /app

# Libraries first: they change less often than the package.
COPY requirements/demo.txt constraints.txt ./
RUN pip install --require-hashes --no-deps -r demo.txt \
    && pip install -c constraints.txt --index-url "$TORCH_INDEX" torch

COPY . .
RUN pip install --no-deps --no-build-isolation . \
    && useradd --create-home --uid 1000 svfit && mkdir /data && chown svfit /data

USER 1000
VOLUME /data
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import socket; socket.create_connection(('127.0.0.1', 7860), 5).close()"]
# Where others can reach it, the app wants a password.
CMD ["sh", "-c", "exec svfit app --host 0.0.0.0 --port 7860 --auth \"${SVFIT_AUTH:?set SVFIT_AUTH to user:password}\""]
