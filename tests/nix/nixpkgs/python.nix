# `python3Packages` as far as the packages and the dev shell use it: names as in nixpkgs, so that a
# misspelt one fails, and versions of the tree that was read (26.11pre, July 2026) where known.
# Nothing here has content; a build gives an empty folder.
{ lib, pkgs }:
let
  inherit (builtins)
    attrNames
    functionArgs
    intersectAttrs
    isFunction
    removeAttrs
    ;

  # What buildPythonPackage takes, less what we do not use; pytestFlagsArray throws since 26.05.
  accepted = [
    "build-system"
    "buildInputs"
    "dependencies"
    "disabledTestPaths"
    "disabledTests"
    "doCheck"
    "enabledTestPaths"
    "env"
    "makeWrapperArgs"
    "meta"
    "nativeBuildInputs"
    "nativeCheckInputs"
    "optional-dependencies"
    "passthru"
    "patches"
    "pname"
    "postInstall"
    "postPatch"
    "preCheck"
    "pyproject"
    "pytestFlags"
    "pythonImportsCheck"
    "pythonRelaxDeps"
    "pythonRemoveDeps"
    "src"
    "version"
  ];

  # The path does not depend on the source, so that rendered units change only when they must.
  build =
    prefix: given:
    let
      arguments = if isFunction given then given (arguments // { inherit package; }) else given;
      unknown = attrNames (removeAttrs arguments accepted);
      package =
        pkgs.package {
          name = "${prefix}${arguments.pname}-${arguments.version}";
          inherit (arguments) pname version;
          meta = arguments.meta or { };
        }
        // {
          inherit (arguments) pname version;
          src = arguments.src or null;
          meta = { } // arguments.meta or { };
          propagatedBuildInputs = arguments.dependencies or [ ];
          dependencies = arguments.dependencies or [ ];
          optional-dependencies = arguments.optional-dependencies or { };
          arguments = arguments;
        }
        // arguments.passthru or { };
    in
    if unknown != [ ] then
      throw "buildPythonPackage: unexpected arguments ${toString unknown}"
    else if !(arguments.pyproject or false) then
      throw "buildPythonPackage: ${arguments.pname} does not set pyproject = true"
    else
      package;

  override =
    f: given:
    f given
    // {
      override = more: override f (given // (if isFunction more then more given else more));
    };

  callPackage =
    file: given:
    let
      f = if isFunction file then file else import file;
      scope = pkgs // self;
    in
    override f (intersectAttrs (functionArgs f) scope // given);

  known = {
    alembic = "1.18.1";
    asgiref = null;
    attrs = null;
    beautifulsoup4 = null;
    croniter = null;
    cryptography = null;
    fastapi = "0.136.3";
    h11 = null;
    hatchling = null;
    httpcore = null;
    httptools = "0.7.1";
    httpx = "0.28.1";
    hypothesis = null;
    lxml = null;
    markdown-it-py = null;
    mypy = null;
    numpy = null;
    onnx = null;
    onnxruntime = "1.26.0";
    openvino = null;
    opentelemetry-api = "1.43.0";
    opentelemetry-exporter-otlp-proto-grpc = "1.43.0";
    opentelemetry-sdk = "1.43.0";
    orjson = "3.11.9";
    packaging = null;
    pathspec = null;
    pgvector = "0.4.2";
    prometheus-client = "0.25.0";
    psutil = null;
    psycopg = "3.3.4";
    psycopg-pool = null;
    pydantic = null;
    pydantic-settings = "2.12.0";
    pyflakes = null;
    pypdf = "6.14.2";
    pytest = null;
    pytest-asyncio = "1.4.0";
    pytest-cov = null;
    pytest-timeout = null;
    python-dateutil = null;
    python-multipart = null;
    qdrant-client = "1.18.0";
    redis = "8.0.1";
    rich = "15.0.0";
    safetensors = null;
    sentence-transformers = "5.4.1";
    snowballstemmer = "3.0.1";
    sqlalchemy = "2.0.51";
    starlette = null;
    structlog = "26.1.0";
    tenacity = "9.1.4";
    tokenizers = "0.22.2";
    torch = "2.12.0";
    tree-sitter = null;
    typer = "0.25.1";
    typing-extensions = null;
    uv-dynamic-versioning = "0.11.2";
    uvicorn = "0.46.0";
    uvloop = "0.22.1";
  };

  self =
    lib.mapAttrs (
      pname: version:
      build "python3.13-" {
        inherit pname;
        version = if version == null then "0" else version;
        pyproject = true;
      }
    ) known
    // {
      inherit callPackage;
      inherit (pkgs) fetchPypi;
      # Their names as packages; the distributions are without "python-".
      tree-sitter-grammars =
        lib.genAttrs
          [
            "tree-sitter-bash"
            "tree-sitter-c"
            "tree-sitter-cpp"
            "tree-sitter-go"
            "tree-sitter-java"
            "tree-sitter-javascript"
            "tree-sitter-nix"
            "tree-sitter-python"
            "tree-sitter-rust"
            "tree-sitter-tsx"
            "tree-sitter-typescript"
          ]
          (
            name:
            build "python3.13-" {
              pname = "python-${name}";
              version = "0";
              pyproject = true;
            }
          );
      buildPythonPackage = build "python3.13-";
      buildPythonApplication = build "";
      toPythonModule = package: package // { pythonModule = pkgs.python3; };
      # Which versions were read; the others are there under some version.
      versionsRead = lib.filterAttrs (_: version: version != null) known;
    };
in
self
