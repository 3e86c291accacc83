# The Python application: every service and the `aistack` command, one derivation.
{
  lib,
  stdenv,
  buildPythonApplication,
  hatchling,

  # dependencies, in the order of pyproject.toml
  fastapi,
  starlette,
  uvicorn,
  httptools,
  uvloop,
  pydantic,
  pydantic-settings,
  httpx,
  httpcore,
  h11,
  orjson,
  structlog,
  prometheus-client,
  opentelemetry-api,
  opentelemetry-sdk,
  opentelemetry-exporter-otlp-proto-grpc,
  tenacity,
  psycopg,
  psycopg-pool,
  pgvector,
  alembic,
  sqlalchemy,
  procrastinate,
  redis,
  numpy,
  python-multipart,
  pypdf,
  cryptography,
  beautifulsoup4,
  lxml,
  markdown-it-py,
  snowballstemmer,
  tree-sitter,
  tree-sitter-grammars,
  tokenizers,
  safetensors,
  pathspec,
  typer,
  rich,

  # extras
  qdrant-client,
  onnxruntime,
  onnx,
  openvino,
  torch,
  sentence-transformers,
  withOnnx ? true,
  # The faster one, where it was measured.
  withOpenvino ? stdenv.hostPlatform.isx86_64,
  withTorch ? false,
}:

let
  root = ../..;
  inherit (lib) fileset;
  project = (lib.importTOML (root + "/pyproject.toml")).project;

  # A change of documentation, tests or of the Nix code does not rebuild the application.
  source = fileset.toSource {
    inherit root;
    fileset = fileset.unions [
      (root + "/pyproject.toml")
      (root + "/LICENSE")
      (fileset.fileFilter (file: !file.hasExt "pyc") (root + "/src"))
    ];
  };

  # Whose source code is cut by definitions.
  languages = [
    "bash"
    "c"
    "cpp"
    "go"
    "java"
    "javascript"
    "nix"
    "python"
    "rust"
    "tsx"
    "typescript"
  ];

  extras = {
    qdrant = [ qdrant-client ];
    onnx = [
      onnxruntime
      onnx
    ];
    openvino = [
      openvino
      onnx
    ];
    torch = [
      torch
      sentence-transformers
    ];
  };
in

assert lib.assertMsg (
  withOnnx || withOpenvino || withTorch
) "aistack: an encoder is needed: leave withOnnx on, or set withOpenvino or withTorch = true";

buildPythonApplication {
  pname = "aistack";
  inherit (project) version;
  pyproject = true;

  src = source;

  # The metadata wants the file; its words belong to the documentation.
  postPatch = ''
    touch README.md
  '';

  build-system = [ hatchling ];

  dependencies = [
    fastapi
    starlette
    uvicorn
    httptools
    uvloop
    pydantic
    pydantic-settings
    httpx
    httpcore
    h11
    orjson
    structlog
    prometheus-client
    opentelemetry-api
    opentelemetry-sdk
    opentelemetry-exporter-otlp-proto-grpc
    tenacity
    psycopg
    psycopg-pool
    pgvector
    alembic
    sqlalchemy
    procrastinate
    redis
    numpy
    python-multipart
    pypdf
    cryptography
    beautifulsoup4
    lxml
    markdown-it-py
    snowballstemmer
    tree-sitter
    tokenizers
    safetensors
    pathspec
    typer
    rich
  ]
  ++ map (language: tree-sitter-grammars."tree-sitter-${language}") languages
  ++ extras.qdrant
  ++ lib.unique (lib.optionals withOnnx extras.onnx ++ lib.optionals withOpenvino extras.openvino)
  ++ lib.optionals withTorch extras.torch;

  optional-dependencies = extras;

  # The tests are a check of their own (nix/tests), so that a change of a test rebuilds nothing.
  doCheck = false;

  pythonImportsCheck = [
    "aistack.cli"
    "aistack.embeddings.app"
    "aistack.aidb.app"
    "aistack.coordinator.app"
  ];

  passthru = {
    inherit
      source
      withOnnx
      withOpenvino
      withTorch
      ;
  };

  meta = {
    inherit (project) description;
    license = lib.licenses.mit;
    mainProgram = "aistack";
    platforms = lib.platforms.linux;
  };
}
