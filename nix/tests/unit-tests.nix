# The unit tests against the packaged application and nixpkgs' versions of what it stands on.
{
  lib,
  pkgs,
  own,
}:
let
  root = ../..;

  source = lib.fileset.toSource {
    inherit root;
    fileset = lib.fileset.unions (
      map (name: root + "/${name}") [
        "pyproject.toml"
        "constraints.txt"
        "models.txt"
        "flake.nix"
        "flake.lock"
        "CHANGELOG.md"
        "LICENSE"
        "Makefile"
        "README.md"
        "bench"
        "docs"
        "nix"
        "src"
        "tests"
      ]
    );
  };

  python = pkgs.python3.withPackages (ps: [
    (ps.toPythonModule own.aistack)
    own.aistack-up.models
    ps.hypothesis
    ps.psutil
    ps.pytest
    ps.pytest-asyncio
    ps.pytest-timeout
  ]);
in
pkgs.runCommand "aistack-unit-tests"
  {
    nativeBuildInputs = [
      python
      (pkgs.postgresql_18.withPackages (extensions: [ extensions.pgvector ]))
      pkgs.valkey
      pkgs.llama-cpp
    ];
  }
  ''
    cp -r ${source} source
    chmod -R u+w source
    cd source
    export HOME=$TMPDIR
    # What a newer or older dependency warns of is no failure of this package.
    python3 -m pytest tests/unit -p no:cacheprovider -W default
    touch $out
  ''
