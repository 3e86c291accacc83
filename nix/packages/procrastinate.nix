# The PostgreSQL job queue under document ingestion; nixpkgs does not have it.
{
  lib,
  buildPythonPackage,
  fetchPypi,

  hatchling,
  uv-dynamic-versioning,

  asgiref,
  attrs,
  croniter,
  packaging,
  psycopg,
  psycopg-pool,
  python-dateutil,
  typing-extensions,
}:

buildPythonPackage rec {
  pname = "procrastinate";
  version = "3.10.0";
  pyproject = true;

  src = fetchPypi {
    inherit pname version;
    hash = "sha256-NmjadpCIaCq/kbjHYN5Ge+EgMhhBGHLxomrHUV1PmA0=";
  };

  # There is no git history in the source distribution to read the version from.
  env.UV_DYNAMIC_VERSIONING_BYPASS = version;

  build-system = [
    hatchling
    uv-dynamic-versioning
  ];

  dependencies = [
    asgiref
    attrs
    croniter
    packaging
    psycopg
    psycopg-pool
    python-dateutil
    typing-extensions
  ];

  # Its tests want a PostgreSQL server and are not in the source distribution; the ingestion
  # tests of aistack run against it.
  doCheck = false;

  pythonImportsCheck = [
    "procrastinate"
    "procrastinate.sync_psycopg_connector"
  ];

  meta = {
    description = "Task queue on PostgreSQL";
    homepage = "https://procrastinate.readthedocs.io/";
    changelog = "https://github.com/procrastinate-org/procrastinate/releases/tag/${version}";
    license = lib.licenses.mit;
    mainProgram = "procrastinate";
  };
}
