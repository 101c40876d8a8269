# MLServer with the runtimes of one pipeline of this repository; the variant is in the container's environment.
# By its digest or as a local image: tools/images.sh passes both, and refuses a name that can be given other content.
ARG BASE_IMAGE
ARG BUILD_IMAGE
FROM ${BUILD_IMAGE} AS build
# A stage that is thrown away: its own Python may be installed into, also where it is Debian's.
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_BREAK_SYSTEM_PACKAGES=1
# Without pip: it holds what its SBOM says and ipa.
RUN python3 -m venv --without-pip /opt/ipa
WORKDIR /src
COPY requirements/build.txt requirements/stage.txt requirements/
# MLServer's and RapidOCR's wheels are for any Python 3, and say "below 3.13" of themselves; uv passes over that too.
RUN pip install --require-hashes --no-deps --only-binary :all: -r requirements/build.txt \
 && pip --python /opt/ipa/bin/python install --require-hashes --no-deps --only-binary :all: --ignore-requires-python \
    -r requirements/stage.txt
COPY pyproject.toml README.md LICENSE ./
COPY ipa ipa
RUN pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
 && pip --python /opt/ipa/bin/python install --no-deps --no-index dist/*.whl
COPY requirements/stage.cdx.json /opt/ipa/sbom.cdx.json

FROM ${BASE_IMAGE}
COPY --from=build /opt/ipa /opt/ipa
WORKDIR /srv/stage
# A process of its own for inference would only pass tensors on: a replica has one model.
ENV PATH=/opt/ipa/bin:$PATH PYTHONPATH=/srv/stage HOME=/tmp MLSERVER_PARALLEL_WORKERS=0 \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# The layers above are those of every pipeline's stages.
ARG PIPELINE=ocr
COPY pipelines/__init__.py pipelines/trained.py pipelines/
COPY pipelines/${PIPELINE} pipelines/${PIPELINE}
# Where it runs the root is read only, and nobody waits: models that are trained on first use are trained here.
RUN if [ -e "pipelines/${PIPELINE}/train.py" ]; then OMP_NUM_THREADS=1 python -m "pipelines.${PIPELINE}.train"; fi
USER 10001:10001
EXPOSE 9000 9500
# Without a model-settings.json it takes the model from MLSERVER_MODEL_*.
CMD ["python", "-m", "ipa.dataplane.stage", "start", "/srv/stage"]
