# What is refused about language models, and what to write instead.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.aistack;
  own = cfg.llama;
  enabled = lib.filterAttrs (_: instance: instance.enable) own.instances;
  models = import ../models.nix;

  # What the module writes itself, and what would put a secret in the list of processes.
  ours =
    let
      socket = "the server listens on its socket";
      offline = "use `url` and `hash`: the server has no network";
    in
    {
      "--host" = socket;
      "--port" = socket;
      "-m" = "use `model`";
      "--model" = "use `model`, `url` or `preset`";
      "-mu" = offline;
      "--model-url" = offline;
      "-hf" = offline;
      "-hfr" = offline;
      "--hf-repo" = offline;
      "--hf-token" = offline;
      "--api-key" = "the list of processes would show it; the group of the socket is who connects";
      "-c" = "use `contextSize`";
      "--ctx-size" = "use `contextSize`";
      "-np" = "use `parallel`";
      "--parallel" = "use `parallel`";
    };

  unquantized = [
    "f32"
    "f16"
    "bf16"
  ];

  perInstance =
    name: instance:
    let
      option = "services.aistack.llama.instances.${name}";
      inherit (instance) model source;
      isModel = model != null;
      isSource = source != null;
      flags = map (argument: lib.head (lib.splitString "=" argument)) instance.extraArgs;
      wrong = lib.filter (flag: ours ? ${flag}) flags;
      role = models.presets.${instance.preset}.role;
    in
    [
      {
        assertion = builtins.match "[a-z]([a-z0-9-]{0,15}[a-z0-9])?" name != null;
        message = ''
          ${option}: the name of an instance is part of its unit and its user: use at most 17 small
          letters, digits and hyphens, beginning with a letter.
        '';
      }
      {
        assertion = isModel || isSource;
        message = ''
          ${option} has no model. Set one of
            ${option}.preset = "${lib.head (lib.attrNames models.presets)}";
            ${option}.model = "/path/to/model.gguf";
            ${option} = { url = "https://…"; hash = "sha256-…"; };
        '';
      }
      {
        assertion = !(isModel && instance.url != null);
        message = ''
          ${option}: `model` and `url` are both set. Keep `model` for a file that is there, or `url`
          and `hash` for one to download.
        '';
      }
      {
        assertion = isSource -> source.hash != null;
        message = ''
          ${option}: no hash of this file is attested by two public sources, so it must come from
          you. Download it once, on a machine with room for it:
            nix store prefetch-file ${source.url}
          and write the hash that it prints, or use a file that is there:
            ${option}.hash = "sha256-…";
            ${option}.model = "/path/to/model.gguf";
        '';
      }
      {
        assertion = isSource -> builtins.match "https?://.*" source.url != null;
        message = ''
          ${option}.url must begin with https:// or http://. For a file that is there set
          ${option}.model instead.
        '';
      }
      {
        assertion = isSource -> builtins.match "[a-z]+://[^/]*@.*" source.url == null;
        message = ''
          ${option}.url holds a user or a password, and everybody can read the store. Download the
          file yourself and set ${option}.model.
        '';
      }
      {
        assertion = instance.preset != null -> role == instance.mode;
        message = ''
          ${option}: the preset ${toString instance.preset} is for ${role}, and the instance is for
          ${instance.mode}. Choose another preset or set ${option}.mode.
        '';
      }
      {
        assertion = isModel -> !cfg.lib.unseen model;
        message = ''
          ${option}.model: the unit cannot see ${toString model} (ProtectHome, PrivateTmp). Put the
          file under /var/lib or into the store.
        '';
      }
      {
        assertion = instance.flashAttention != "off" || lib.elem instance.cacheTypeV unquantized;
        message = ''
          ${option}: cacheTypeV = "${instance.cacheTypeV}" needs flash attention. Set
          ${option}.flashAttention = "on", or cacheTypeV = "f16".
        '';
      }
      {
        assertion = wrong == [ ];
        message = ''
          ${option}.extraArgs: ${lib.concatMapStringsSep "; " (flag: "${flag}: ${ours.${flag}}") wrong}.
        '';
      }
      {
        assertion = instance.gpuLayers != null -> own.acceleration != "cpu";
        message = ''
          ${option}.gpuLayers needs a GPU: set
          services.aistack.llama.acceleration = "vulkan" or "cuda".
        '';
      }
    ];

  unfreeIsDecided =
    (pkgs.config.allowUnfree or false)
    || pkgs.config ? allowUnfreePredicate
    || pkgs.config ? allowUnfreePackages;
in
{
  config = lib.mkIf (cfg.enable && own.enable) {
    assertions = lib.concatLists (lib.mapAttrsToList perInstance enabled) ++ [
      {
        assertion = own.acceleration != "cuda" || unfreeIsDecided;
        message = ''
          services.aistack.llama.acceleration = "cuda" needs NVIDIA's libraries, which are unfree:
            nixpkgs.config.allowUnfree = true;
          or set services.aistack.llama.acceleration = "vulkan" or "cpu".
        '';
      }
    ];

    warnings =
      lib.optional (own.acceleration != "cpu" && !config.hardware.graphics.enable) ''
        services.aistack.llama.acceleration = "${own.acceleration}" finds no driver unless
        hardware.graphics.enable = true;
      '';
  };
}
