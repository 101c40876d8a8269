# Router and queue of shape split: no planner, no solver. `ipa render` says which of the two a container runs.
# By its digest or as a local image: tools/images.sh passes both, and refuses a name that can be given other content.
ARG BASE_IMAGE
ARG BUILD_IMAGE
FROM ${BUILD_IMAGE} AS build
# A stage that is thrown away: its own Python may be installed into, also where it is Debian's.
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_BREAK_SYSTEM_PACKAGES=1
# Without pip: it holds what its SBOM says and ipa.
RUN python3 -m venv --without-pip /opt/ipa
WORKDIR /src
COPY requirements/build.txt requirements/dataplane.txt requirements/
RUN pip install --require-hashes --no-deps --only-binary :all: -r requirements/build.txt \
 && pip --python /opt/ipa/bin/python install --require-hashes --no-deps --only-binary :all: -r requirements/dataplane.txt
COPY pyproject.toml README.md LICENSE ./
COPY ipa ipa
RUN pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
 && pip --python /opt/ipa/bin/python install --no-deps --no-index dist/*.whl
COPY requirements/dataplane.cdx.json /opt/ipa/sbom.cdx.json

FROM ${BASE_IMAGE}
COPY --from=build /opt/ipa /opt/ipa
ENV PATH=/opt/ipa/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# In a pod its Service leads to it; on its own it listens to this machine only.
ENV IPA_HOST=0.0.0.0
USER 10001:10001
EXPOSE 9000
CMD ["python", "-m", "ipa.dataplane.queue"]
