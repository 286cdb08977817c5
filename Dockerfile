# Kappa's images, one target each: operator, gateway, runtime-python. `make images` builds all three.
#
#   docker build --target operator -t kappa/operator:dev .
#
# Every target carries an environment of its own in /opt/kappa, with the packages of its own extra only. It is made in a
# builder stage on the same base image as the final one, so the environment's python is the base's, wherever that keeps it.
ARG PYTHON_IMAGE=python:3.13-slim

# What all images share. Published Python images come without bytecode of the standard library, and a user other than
# root cannot write it: without this every start compiles the library anew. Unchecked bytecode is never compared with its
# source, so file times that a registry rounds cannot make it stale.
FROM ${PYTHON_IMAGE} AS base
RUN python -m compileall -q -j 0 --invalidation-mode unchecked-hash \
      -x '/(test|tests|idlelib|tkinter|turtledemo|ensurepip|pydoc_data|dist-packages|site-packages)/' \
      "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" \
 && groupadd --gid 1000 kappa \
 && useradd --uid 1000 --gid 1000 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin kappa
ENV LANG=C.UTF-8 \
    PATH=/opt/kappa/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1

FROM base AS builder
# The base's own python and pip here; the environment has no pip.
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY pyproject.toml ./
# One requirements file an extra: the packages get a layer of their own, which a change of Kappa's code leaves as it is.
RUN python -c "import tomllib; \
extras = tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']; \
[open(f'{extra}.txt', 'w').write('\n'.join(packages)) for extra, packages in extras.items()]" \
 && python -m venv --without-pip /opt/kappa

FROM builder AS wheel
COPY README.md LICENSE ./
COPY core core
COPY kube kube
COPY operator operator
COPY gateway gateway
COPY runtime runtime
# The images carry no command line: its folder is not copied, and its entry point is taken out.
RUN sed -i '/^\[project.scripts\]/,/^$/d' pyproject.toml \
 && python -m pip wheel --quiet --no-deps --wheel-dir /wheels .

FROM builder AS operator-environment
RUN python -m pip --python /opt/kappa/bin/python install --quiet -r operator.txt
COPY --from=wheel /wheels /wheels
RUN python -m pip --python /opt/kappa/bin/python install --quiet --no-deps --no-index /wheels/*.whl \
 && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/kappa/lib

FROM builder AS gateway-environment
RUN python -m pip --python /opt/kappa/bin/python install --quiet -r gateway.txt
COPY --from=wheel /wheels /wheels
RUN python -m pip --python /opt/kappa/bin/python install --quiet --no-deps --no-index /wheels/*.whl \
 && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/kappa/lib

FROM builder AS runtime-python-environment
RUN python -m pip --python /opt/kappa/bin/python install --quiet -r runtime.txt
COPY --from=wheel /wheels /wheels
RUN python -m pip --python /opt/kappa/bin/python install --quiet --no-deps --no-index /wheels/*.whl \
 && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/kappa/lib

# -P keeps the working directory off sys.path. The operator and the gateway need no writable file system.
FROM base AS operator
COPY --from=operator-environment /opt/kappa /opt/kappa
ARG VERSION=dev
ARG REVISION=
LABEL org.opencontainers.image.title="Kappa operator" \
      org.opencontainers.image.description="Reconciles Functions into Deployments and scales them" \
      org.opencontainers.image.source="https://github.com/kappa-run/kappa" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
WORKDIR /tmp
USER 1000:1000
EXPOSE 8082
ENTRYPOINT ["/opt/kappa/bin/python", "-P", "-m", "kappa_operator"]

FROM base AS gateway
COPY --from=gateway-environment /opt/kappa /opt/kappa
ARG VERSION=dev
ARG REVISION=
LABEL org.opencontainers.image.title="Kappa gateway" \
      org.opencontainers.image.description="Serves the Lambda API and function URLs, and passes invocations to function pods" \
      org.opencontainers.image.source="https://github.com/kappa-run/kappa" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
WORKDIR /tmp
USER 1000:1000
EXPOSE 8080 8081
ENTRYPOINT ["/opt/kappa/bin/python", "-P", "-m", "kappa_gateway"]

# The kernel ignores a SIGTERM to a container's first process that has no handler yet: a pod that is deleted in the moment
# it starts, as the twin of an adopted pool pod is, would stay for its whole grace period. tini has one from the start.
# -s: where pods share a process namespace it is not the first process.
# -I: a function's own PYTHONPATH and the like are for its process, not for the agent.
FROM base AS runtime-python
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends tini >/dev/null \
 && rm -rf /var/lib/apt/lists/*
COPY --from=runtime-python-environment /opt/kappa /opt/kappa
RUN mkdir -p /var/task && chown 1000:1000 /var/task
ARG VERSION=dev
ARG REVISION=
LABEL org.opencontainers.image.title="Kappa runtime for Python" \
      org.opencontainers.image.description="Runs one Function: the agent and Lambda's Python runtime client" \
      org.opencontainers.image.source="https://github.com/kappa-run/kappa" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
WORKDIR /var/task
USER 1000:1000
EXPOSE 8080
ENTRYPOINT ["/usr/bin/tini", "-s", "--", "/opt/kappa/bin/python", "-I", "-B", "-m", "kappa_runtime"]
