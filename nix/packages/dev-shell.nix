# `nix develop`: the application from the checkout (src on the path), its servers, and the tools.
{ pkgs, own }:
let
  python = pkgs.python3.withPackages (
    ps:
    own.aistack.dependencies
    ++ [
      own.aistack-up.models
      ps.hatchling
      ps.pytest
      ps.pytest-asyncio
      ps.pytest-cov
      ps.pytest-timeout
      ps.hypothesis
      ps.psutil
      ps.mypy
    ]
  );
in
pkgs.mkShell {
  packages = [
    python
    pkgs.ruff
    pkgs.nixfmt-tree
    (pkgs.postgresql_18.withPackages (extensions: [ extensions.pgvector ]))
    pkgs.valkey
    pkgs.llama-cpp
  ];

  shellHook = ''
    export PYTHONPATH="$PWD/src''${PYTHONPATH:+:$PYTHONPATH}"
  '';
}
