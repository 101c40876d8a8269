# MLServer with the runtimes of one pipeline of this repository; the variant is in the container's environment.
# By its digest: tools/images.sh passes it, and refuses a name that can be given other content.
ARG BASE_IMAGE
FROM ${BASE_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# Without pip: it holds what its SBOM says and ipa.
RUN python -m venv --without-pip /opt/ipa
WORKDIR /src
COPY requirements/build.txt requirements/stage.txt requirements/
RUN pip install --require-hashes --no-deps --only-binary :all: -r requirements/build.txt \
 && pip --python /opt/ipa/bin/python install --require-hashes --no-deps --only-binary :all: -r requirements/stage.txt
COPY pyproject.toml README.md LICENSE ./
COPY ipa ipa
RUN pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
 && pip --python /opt/ipa/bin/python install --no-deps --no-index dist/*.whl
COPY requirements/stage.cdx.json /opt/ipa/sbom.cdx.json

FROM ${BASE_IMAGE}
ARG PIPELINE=ocr
COPY --from=build /opt/ipa /opt/ipa
WORKDIR /srv/stage
COPY pipelines/__init__.py pipelines/__init__.py
COPY pipelines/${PIPELINE} pipelines/${PIPELINE}
# A process of its own for inference would only pass tensors on: a replica has one model.
ENV PATH=/opt/ipa/bin:$PATH PYTHONPATH=/srv/stage HOME=/tmp MLSERVER_PARALLEL_WORKERS=0 \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 9000 9500
# Without a model-settings.json it takes the model from MLSERVER_MODEL_*.
CMD ["mlserver", "start", "/srv/stage"]
