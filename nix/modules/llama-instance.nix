# The options of one server of llama.cpp; what follows from them is in llama-derived.nix.
{
  lib,
  models,
  pkgs,
  profile,
}:
let
  inherit (lib) mkOption types;

  cacheType = types.enum [
    "f32"
    "f16"
    "bf16"
    "q8_0"
    "q4_0"
    "q4_1"
    "iq4_nl"
    "q5_0"
    "q5_1"
  ];

  maybe =
    type: description:
    mkOption {
      type = types.nullOr type;
      default = null;
      inherit description;
    };

  # Queries and all: the name of the file alone, as it is kept on this machine.
  fileOf = url: lib.head (lib.splitString "?" (baseNameOf url));
in
{ name, config, ... }:
let
  preset = if config.preset == null then null else models.presets.${config.preset} or null;
  presetOr =
    field: other: if preset == null then other else preset.${field};
  wholeInput = if config.mode == "chat" then null else config.contextSize;
in
{
  imports = [ (import ./llama-derived.nix { inherit lib models pkgs; }) ];

  options = {
    enable = mkOption {
      type = types.bool;
      default = true;
      description = "Whether to run this instance.";
    };

    mode = mkOption {
      type = types.enum [
        "chat"
        "embedding"
        "reranking"
      ];
      default =
        {
          embedding = "embedding";
          reranking = "reranking";
        }
        .${name} or "chat";
      defaultText = lib.literalMD ''
        the instance's name if it is `embedding` or `reranking`, else `chat`
      '';
      description = ''
        What the server does. The coordinator uses the instance `chat`. The others are for clients
        of llama.cpp: the stack's own vectors come from the embeddings service.
      '';
    };

    preset = mkOption {
      type = types.nullOr (types.enum (lib.attrNames models.presets));
      default = if config.model == null && config.url == null then profile.${config.mode} else null;
      defaultText = lib.literalMD ''
        the model of {option}`services.aistack.models.profile`, unless model or url is set
      '';
      description = ''
        A model of `nix/models.nix` with what it needs: address, hash, context, arguments. It is
        downloaded as {option}`fetch` says, unless {option}`model` names the file.
      '';
    };

    model = mkOption {
      type = types.nullOr types.path;
      default = null;
      example = "/var/lib/models/my-model.gguf";
      description = ''
        The model: a GGUF file outside the store, or one in it (a derivation). Nothing is
        downloaded then. The server runs as a user of its own: everybody must be able to read it.
      '';
    };

    url = maybe types.str ''
      Where to download the model, if it is no preset; needs {option}`hash`.
    '';
    hash = maybe (types.strMatching "sha256-[A-Za-z0-9+/]{43}=") ''
      Hash of the file that is downloaded, as `nix store prefetch-file URL` prints it. By default
      the preset's.
    '';
    size = maybe types.ints.positive ''
      Bytes of the file that is downloaded at the start, if the server does not say.
    '';

    fetch = mkOption {
      type = types.enum [
        "build"
        "start"
      ];
      default = "build";
      description = ''
        When the model is downloaded. `build`: by Nix while the system is built, into the store; it
        is there after one rebuild, is copied to other machines with the system, and needs twice its
        size for a moment. `start`: by `aistack-model-<name>.service` on this machine, into
        `/var/lib/aistack-models`; a rebuild does not wait for it, and the server starts when it is
        done.
      '';
    };

    alias = mkOption {
      type = types.str;
      default =
        if config.preset != null then
          config.preset
        else if config.url != null then
          lib.removeSuffix ".gguf" (fileOf config.url)
        else
          lib.removeSuffix ".gguf" (baseNameOf config.modelFile);
      defaultText = lib.literalMD "the preset, or the name of the file";
      description = "Name of the model in the API, in answers and in metrics.";
    };

    contextSize = mkOption {
      type = types.ints.positive;
      default = presetOr "contextSize" 4096;
      defaultText = lib.literalMD "the preset's, else 4096";
      description = ''
        Tokens of one request, answer included; a longer prompt is refused with 400. Memory for
        them is taken at the start, for each of {option}`parallel`.
      '';
    };

    parallel = mkOption {
      type = types.ints.positive;
      default = presetOr "parallel" 2;
      defaultText = lib.literalMD "the preset's, else 2";
      description = ''
        Requests at once; further ones wait. Each takes memory for {option}`contextSize` tokens.
      '';
    };

    cacheTypeK = mkOption {
      type = cacheType;
      default = "f16";
      description = ''
        Type of the keys in the key-value cache. `q8_0` takes about half the memory of `f16`.
      '';
    };

    cacheTypeV = mkOption {
      type = cacheType;
      default = "f16";
      description = ''
        Type of the values in the cache, as {option}`cacheTypeK`; one smaller than `bf16` needs
        flash attention.
      '';
    };

    flashAttention = mkOption {
      type = types.enum [
        "auto"
        "on"
        "off"
      ];
      default = "auto";
      description = ''
        Whether to use flash attention, which takes less memory for long contexts; `auto` uses it
        where the device can.
      '';
    };

    gpuLayers = maybe types.ints.unsigned ''
      Layers on the GPU; null leaves it to llama.cpp, which takes what fits.
    '';
    threads = maybe types.ints.positive ''
      Threads that compute; null is one for each core. They spin: on a busy machine one fewer than
      there are cores is faster.
    '';
    batchSize = mkOption {
      type = types.nullOr types.ints.positive;
      default = wholeInput;
      defaultText = lib.literalMD ''
        null, which is llama.cpp's 2048; for embedding and reranking {option}`contextSize`
      '';
      description = "Most tokens of prompts that are scheduled together.";
    };

    microBatchSize = mkOption {
      type = types.nullOr types.ints.positive;
      default = wholeInput;
      defaultText = lib.literalMD ''
        null, which is llama.cpp's 512; for embedding and reranking {option}`contextSize`
      '';
      description = ''
        Most tokens that are computed together. More is faster on a GPU and takes memory there. An
        embedding or reranking model computes an input at once: a longer one is refused.
      '';
    };

    extraArgs = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [
        "--chat-template-kwargs"
        "{\"enable_thinking\": false}"
      ];
      description = ''
        Further arguments of `llama-server`, one an element and as they are: they are escaped for
        systemd. Nothing secret belongs here.
      '';
    };

    mlock = mkOption {
      type = types.bool;
      default = false;
      description = ''
        Whether to hold the model in memory, so that it is never read again from the disk.
      '';
    };

    memoryMax = mkOption {
      type = types.nullOr (types.strMatching "[0-9]+(\\.[0-9]+)?[KMGT]?|[0-9]+%|infinity");
      default = if preset == null then null else "${toString config.memoryMib}M";
      defaultText = lib.literalMD "for a preset the file, its cache at f16 and 2 GiB; else none";
      description = "Memory beyond which the server is killed and started again (`MemoryMax=`).";
    };

    startTimeout = mkOption {
      type = types.ints.positive;
      default = 600;
      description = ''
        Seconds until the model must be loaded; then the server is ended and started again. Nothing
        else waits for it.
      '';
    };
  };
}
