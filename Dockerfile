FROM python:3.11-slim-bookworm

# Another build of torch for another graphics card: the addresses are listed on pytorch.org.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /app

COPY requirements.txt requirements.lock requirements-starter.txt ./
RUN python -m pip install --no-deps --require-hashes -r requirements.lock \
    && python -m pip install --index-url "$TORCH_INDEX" "$(grep -o '^torch==[^ ]*' requirements.txt)" \
    && python -m pip install --no-deps --require-hashes -r requirements-starter.txt

COPY LICENSE app.py ./
COPY slimllm slimllm
COPY ui ui
COPY assets assets

# A new volume takes its owner from here.
RUN useradd --create-home --uid 1000 slimllm && mkdir /data && chown 1000 /data
USER 1000
ENV SLIMLLM_HOME=/data/slimllm HF_HOME=/data/huggingface
VOLUME /data

EXPOSE 7860
HEALTHCHECK --start-period=60s CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:7860', timeout=10)"]
# The interrupt that ends the program in order, as Ctrl-C does.
STOPSIGNAL SIGINT
ENTRYPOINT ["python", "app.py", "--listen", "--root", "/data"]
