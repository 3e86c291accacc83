# Machine 3 of 3 (10.0.0.3): the language model, and a second encoder. Encoders that share work are
# of one engine, because vectors of two engines are never mixed: this one uses the processor too.
{ lib, pkgs, ... }:
{
  imports = [ ./common.nix ];

  services.aistack = {
    roles = [
      "llama"
      "embeddings"
    ];

    machines = {
      enable = true;
      listenAddresses = [ "10.0.0.3" ];
    };

    models.profile = "gpu";

    # The encoder's cache, on the same machine.
    redis.createLocally = true;
  };

  nixpkgs.config = {
    cudaSupport = true;
    allowUnfreePredicate =
      package:
      pkgs._cuda.lib.allowUnfreeCudaPredicate package
      || lib.hasPrefix "nvidia-" (lib.getName package);
  };

  hardware = {
    graphics.enable = true;
    nvidia.open = true;
  };
  services.xserver.videoDrivers = [ "nvidia" ];
}
