# Options of llama.cpp; those of each instance are in llama-instance.nix.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.services.aistack.llama;
  models = import ../models.nix;

  instance = import ./llama-instance.nix {
    inherit lib models pkgs;
    profile = models.profiles.${config.services.aistack.models.profile};
  };
in
{
  options.services.aistack = {
    models.profile = mkOption {
      type = types.enum (lib.attrNames models.profiles);
      default = "laptop";
      description = ''
        The machine that models are chosen for: `laptop` (27 GB of memory, no GPU), `gpu` (one with
        24 GB), `h100` (one with 80 GB).
      '';
    };

    llama = {
      enable = mkOption {
        type = types.bool;
        default = true;
        description = ''
          Whether to run language models on this machine. Without one, here or by
          {option}`services.aistack.settings.llama.address`, chat and answers are 503; search goes
          on.
        '';
      };

      acceleration = mkOption {
        type = types.enum [
          "cpu"
          "vulkan"
          "cuda"
        ];
        default =
          if pkgs.config.cudaSupport or false || config.services.aistack.models.profile != "laptop" then
            "cuda"
          else
            "cpu";
        defaultText = lib.literalMD ''
          `"cuda"` with `nixpkgs.config.cudaSupport` or a profile with a GPU, else `"cpu"`
        '';
        description = ''
          What computes: the processor, a GPU by Vulkan (integrated ones too), or an NVIDIA GPU by
          CUDA, whose libraries are unfree and built from source where no cache has them. The host
          needs the driver ({option}`hardware.graphics.enable`).
        '';
      };

      package = mkOption {
        type = types.package;
        default = pkgs.llama-cpp.override {
          cudaSupport = cfg.acceleration == "cuda";
          vulkanSupport = cfg.acceleration == "vulkan";
        };
        defaultText = lib.literalMD "`pkgs.llama-cpp`, built for {option}`acceleration`";
        description = ''
          The package with `llama-server`. Set it for another build (such as ROCm);
          {option}`acceleration` still decides which devices the server sees.
        '';
      };

      instances = mkOption {
        type = types.attrsOf (types.submodule instance);
        default = { };
        example = {
          chat.contextSize = 16384;
          reranking = { };
        };
        description = "Servers, by name. `chat` is there by itself; the coordinator uses it.";
      };
    };
  };

  config.services.aistack.llama.instances.chat = { };
}
