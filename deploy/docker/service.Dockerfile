# The service: API, page and control loop, with HiGHS and PostgreSQL. Run it as the chart does.
# By its digest or as a local image: tools/images.sh passes both, and refuses a name that can be given other content.
ARG BASE_IMAGE
ARG BUILD_IMAGE
FROM ${BUILD_IMAGE} AS build
# A stage that is thrown away: its own Python may be installed into, also where it is Debian's.
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_BREAK_SYSTEM_PACKAGES=1
# Without pip: it holds what its SBOM says and ipa.
RUN python3 -m venv --without-pip /opt/ipa
WORKDIR /src
# By themselves, so that a change of the code does not install them anew.
COPY requirements/build.txt requirements/service.txt requirements/
RUN pip install --require-hashes --no-deps --only-binary :all: -r requirements/build.txt \
 && pip --python /opt/ipa/bin/python install --require-hashes --no-deps --only-binary :all: -r requirements/service.txt
COPY pyproject.toml README.md LICENSE ./
COPY ipa ipa
RUN pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
 && pip --python /opt/ipa/bin/python install --no-deps --no-index dist/*.whl
COPY requirements/service.cdx.json /opt/ipa/sbom.cdx.json

FROM ${BASE_IMAGE}
# What GitOps mode commits with.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends git \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/ipa /opt/ipa
WORKDIR /srv/ipa
# Those that come with the project; the chart mounts yours in their place.
COPY pipelines pipelines
COPY profiles profiles
# The root is read only where it runs: caches go to the one folder that is not.
ENV PATH=/opt/ipa/bin:$PATH HOME=/tmp NUMBA_CACHE_DIR=/tmp/numba PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 8080
ENTRYPOINT ["ipa"]
CMD ["serve", "--target", "kubernetes", "--mode", "advisory"]
